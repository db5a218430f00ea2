//! An array or a jsonb document ↔ tokens: the ordinals of what is in it. Pure; trusts nothing it reads.
//!
//! A filter only has to name every row that meets it: PostgreSQL checks each row again. So of a document it is enough to know
//! which scalars and which keys stand under which keys. Arrays are looked through: neither the place in one nor its depth
//! counts, which holds for containment, `->`, `->>`, `#>>` and `?` alike.

use std::hash::Hasher;

use fallible_iterator::FallibleIterator;
use postgres_protocol::types::array_from_sql;

use super::json::{self, Json};
use super::ordinal::{self, Ordinal};
use super::values::EVERY;
use crate::catalog::{FilterKind, ValueKind};

/// Most elements of an array, or values and keys of a document: about 20 bytes each, and as much for what a string may be cast
/// to. A row with more is taken to meet every
/// condition on the column.
const MAX_TOKENS: usize = 256;

/// Tags of the numbers of a path, and of those that are in its strings.
const NUMBER: u8 = b'n';
const NUMBER_IN_STRING: u8 = b'm';
/// Bits of a number's token that tell its path. The other 44 tell integers below 2³² apart.
const PATH_BITS: u32 = 20;

/// The version of jsonb's binary form.
const JSONB_VERSION: u8 = 1;

/// The tokens of a value in binary form, in order.
pub(super) fn of_binary(kind: FilterKind, value: &[u8]) -> Vec<u64> {
    let tokens = match kind {
        FilterKind::One(kind) => Ordinal::of_binary(kind, value).map(|ordinal| vec![ordinal]),
        FilterKind::Array(kind) => of_array(kind, value),
        FilterKind::Jsonb => of_jsonb(value),
    };
    let tokens = tokens.unwrap_or_else(|| vec![EVERY]);
    let mut tokens: Vec<u64> = tokens.into_iter().map(Ordinal::get).collect();
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}

/// The elements' ordinals, but NULLs'; `None` for too many.
fn of_array(kind: ValueKind, value: &[u8]) -> Option<Vec<Ordinal>> {
    let array = array_from_sql(value).ok()?;
    if ValueKind::from_oid(array.element_type()) != Some(kind) {
        return None;
    }
    let mut elements = array.values();
    let mut tokens = Vec::new();
    while let Some(element) = elements.next().ok()? {
        if tokens.len() == MAX_TOKENS {
            return None;
        }
        if let Some(element) = element {
            tokens.push(Ordinal::of_binary(kind, element)?);
        }
    }
    Some(tokens)
}

fn of_jsonb(value: &[u8]) -> Option<Vec<Ordinal>> {
    let document = json::read(text_of_jsonb(value)?, MAX_TOKENS)?;
    let mut tokens = Vec::new();
    JsonPath::ROOT.all(&document, &mut tokens);
    Some(tokens)
}

/// The text of a document in binary form.
fn text_of_jsonb(value: &[u8]) -> Option<&str> {
    match value.split_first()? {
        (&JSONB_VERSION, text) => std::str::from_utf8(text).ok(),
        _ => None,
    }
}

/// Where in a document something is: under which keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonPath(u64);

impl JsonPath {
    /// The document itself.
    pub const ROOT: Self = Self(0);

    /// What is under that key.
    #[must_use]
    pub fn key(self, key: &str) -> Self {
        Self(self.hash(b'/', key.as_bytes()).get())
    }

    /// Where there is an object with that key, or a string, perhaps in an array, that is the key, one of these is a token.
    #[must_use]
    pub fn has_key(self, key: &str) -> Vec<Ordinal> {
        vec![self.key_token(key), self.string_token(key)]
    }

    /// Where there is something whose text, as `->>` has it, is this, one of these is a token. `None` where the text may be an
    /// object's or an array's.
    #[must_use]
    pub fn has_text(self, text: &str) -> Option<Vec<Ordinal>> {
        if text.starts_with(['{', '[']) {
            return None;
        }
        let mut tokens = vec![self.string_token(text)];
        // Other texts than PostgreSQL's of the number do no harm.
        tokens.extend(text.parse().ok().map(|number| self.number_token(number)));
        tokens.extend(text.parse().ok().map(|value| self.bool_token(value)));
        Some(tokens)
    }

    /// Where there is a number in that range of its ordinals, perhaps, if `as_text`, in a string, there is a token in one of
    /// these. `rounds`: the number may be up to a half away from what lies in the range.
    #[must_use]
    pub fn has_number(
        self,
        (low, high): (Ordinal, Ordinal),
        as_text: bool,
        rounds: bool,
    ) -> Vec<(Ordinal, Ordinal)> {
        let away = |ordinal: Ordinal, by: f64| match ordinal.float() + by {
            beyond if beyond.is_nan() => ordinal, // there is no end
            number => Ordinal::of_float(number),
        };
        let range = |tag| {
            let (low, high) = match rounds {
                true => (away(low, -1.0), away(high, 1.0)),
                false => (low, high),
            };
            let (low, high) = (self.number(tag, low), self.number(tag, high));
            match rounds {
                true => (low.previous(), high.next()), // a double far from 0 has no halves
                false => (low, high),
            }
        };
        let mut ranges = vec![range(NUMBER)];
        if as_text {
            let odd = self.hash(b'o', &[]);
            ranges.extend([range(NUMBER_IN_STRING), (odd, odd)]);
        }
        ranges
    }

    /// Where there is that boolean, perhaps, if `as_text`, as another text that is cast to it, one of these is a token.
    #[must_use]
    pub fn has_bool(self, value: bool, as_text: bool) -> Vec<Ordinal> {
        let mut tokens = vec![self.bool_token(value)];
        if as_text {
            tokens.extend([
                self.hash(b'B', &[u8::from(value)]),
                self.number_token(f64::from(u8::from(value))),
            ]);
        }
        tokens
    }

    /// Where a document's part contains this one or is equal to it, all of these are tokens. `None` if it is too large.
    #[must_use]
    pub fn contains(self, document: &str) -> Option<Vec<Ordinal>> {
        let document = json::read(document, MAX_TOKENS)?;
        let mut tokens = Vec::new();
        self.necessary(&document, &mut tokens);
        Some(tokens)
    }

    /// The same of a document in binary form.
    #[must_use]
    pub fn contains_binary(self, document: &[u8]) -> Option<Vec<Ordinal>> {
        self.contains(text_of_jsonb(document)?)
    }

    fn hash(self, tag: u8, bytes: &[u8]) -> Ordinal {
        let mut hasher = ordinal::hasher();
        hasher.write_u8(tag);
        hasher.write_u64(self.0);
        hasher.write(bytes);
        Ordinal::of_hash(hasher.finish())
    }

    fn key_token(self, key: &str) -> Ordinal {
        self.hash(b'k', key.as_bytes())
    }

    fn string_token(self, text: &str) -> Ordinal {
        self.hash(b's', text.as_bytes())
    }

    fn number_token(self, number: f64) -> Ordinal {
        self.number(NUMBER, Ordinal::of_float(number))
    }

    /// Numbers under one path are in order: its hash's first bits, then as many of the ordinal.
    fn number(self, tag: u8, ordinal: Ordinal) -> Ordinal {
        let path = self.hash(tag, &[]).get() >> (64 - PATH_BITS) << (64 - PATH_BITS);
        Ordinal::of_hash(path | ordinal.get() >> PATH_BITS)
    }

    /// What a cast may make of a string.
    fn cast_tokens(self, text: &str) -> impl Iterator<Item = Ordinal> {
        // What isspace() takes for spaces.
        let text = text.trim_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
        let number = match number_in(text) {
            Some(Some(number)) => Some(self.number(NUMBER_IN_STRING, Ordinal::of_float(number))),
            Some(None) => Some(self.hash(b'o', &[])),
            None => None,
        };
        let value = bool_in(text).map(|value| self.hash(b'B', &[u8::from(value)]));
        number.into_iter().chain(value)
    }

    fn bool_token(self, value: bool) -> Ordinal {
        self.hash(b'b', &[u8::from(value)])
    }

    /// The token of a scalar.
    fn scalar(self, value: &Json<'_>) -> Option<Ordinal> {
        Some(match value {
            Json::Null => self.hash(b'0', &[]),
            Json::Bool(value) => self.bool_token(*value),
            Json::Number(number) => self.number_token(*number),
            Json::String(text) => self.string_token(text),
            Json::Array(_) | Json::Object(_) => return None,
        })
    }

    /// Every scalar and every key.
    fn all(self, value: &Json<'_>, tokens: &mut Vec<Ordinal>) {
        tokens.extend(self.scalar(value));
        match value {
            Json::String(text) => tokens.extend(self.cast_tokens(text)),
            Json::Array(items) => items.iter().for_each(|item| self.all(item, tokens)),
            Json::Object(members) => {
                for (key, value) in members {
                    tokens.push(self.key_token(key));
                    self.key(key).all(value, tokens);
                }
            }
            Json::Null | Json::Bool(_) | Json::Number(_) => {}
        }
    }

    /// Every scalar, and the keys that have none below.
    fn necessary(self, value: &Json<'_>, tokens: &mut Vec<Ordinal>) {
        tokens.extend(self.scalar(value));
        match value {
            Json::Array(items) => items.iter().for_each(|item| self.necessary(item, tokens)),
            Json::Object(members) => {
                for (key, value) in members {
                    let before = tokens.len();
                    self.key(key).necessary(value, tokens);
                    if tokens.len() == before {
                        tokens.push(self.key_token(key));
                    }
                }
            }
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {}
        }
    }
}

/// The number that a text without spaces around it is; `Some(None)` for one that some version of PostgreSQL may take for a
/// number: hexadecimal, with underscores, infinite.
fn number_in(text: &str) -> Option<Option<f64>> {
    let plain = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E');
    if text.chars().all(plain) {
        return text.parse().ok().map(Some);
    }
    let unsigned = text.trim_start_matches(['+', '-']);
    let is_odd = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        || ["nan", "inf", "infinity"]
            .iter()
            .any(|word| unsigned.eq_ignore_ascii_case(word));
    is_odd.then_some(None)
}

/// The boolean that PostgreSQL takes a text without spaces around it for.
fn bool_in(text: &str) -> Option<bool> {
    let text = text.get(..).filter(|text| (1..=5).contains(&text.len()))?;
    let text = text.to_ascii_lowercase();
    let begins = |words: &[&str]| words.iter().any(|word| word.starts_with(&text));
    match text.as_str() {
        "o" => None,
        "1" => Some(true),
        "0" => Some(false),
        _ if begins(&["true", "yes", "on"]) => Some(true),
        _ if begins(&["false", "no", "off"]) => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn jsonb(document: &Value) -> Vec<u8> {
        [&[JSONB_VERSION], document.to_string().as_bytes()].concat()
    }

    fn has_all(document: &Value, tokens: &[Ordinal]) -> bool {
        let own = of_binary(FilterKind::Jsonb, &jsonb(document));
        tokens.iter().all(|token| own.contains(&token.get()))
    }

    fn has_any(document: &Value, tokens: &[Ordinal]) -> bool {
        let own = of_binary(FilterKind::Jsonb, &jsonb(document));
        tokens.iter().any(|token| own.contains(&token.get()))
    }

    /// `@>` as PostgreSQL documents it; `top` is the one level at which an array contains a scalar.
    fn contains(value: &Value, part: &Value, top: bool) -> bool {
        match (value, part) {
            (Value::Object(value), Value::Object(part)) => part.iter().all(|(key, part)| {
                value
                    .get(key)
                    .is_some_and(|value| contains(value, part, false))
            }),
            (Value::Array(value), Value::Array(part)) => {
                let is_in = |part: &Value| value.iter().any(|value| contains(value, part, false));
                part.iter().all(is_in)
            }
            (Value::Array(value), part) if top && !part.is_object() => value.contains(part),
            (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
            (value, part) => value == part,
        }
    }

    fn text(value: &Value) -> Option<String> {
        match value {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                Some(value.to_string())
            }
        }
    }

    fn document() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(Value::from),
            (-1..3).prop_map(Value::from),
            Just(json!(1.0)),
            Just(json!(1.5)),
            "[ab1]{0,2}".prop_map(Value::from),
            Just(json!("true")),
            Just(json!("null")),
        ];
        scalar.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::hash_map("[ab1]{0,1}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn what_postgres_finds_has_the_tokens(value in document(), part in document(), key in "[ab1]{0,1}") {
            let tokens = JsonPath::ROOT.contains(&part.to_string()).unwrap();
            prop_assert!(!contains(&value, &part, true) || has_all(&value, &tokens), "{} @> {}", value, part);
            let path = JsonPath::ROOT.key(&key);
            if let Some(inner) = value.get(&key) {
                let tokens = path.contains(&part.to_string()).unwrap();
                prop_assert!(!contains(inner, &part, true) || has_all(&value, &tokens), "{} -> {} @> {}", value, key, part);
                if let Some(tokens) = text(inner).and_then(|text| path.has_text(&text)) {
                    prop_assert!(has_any(&value, &tokens), "{} ->> {}", value, key);
                }
            }
            let has_key = match &value {
                Value::Object(members) => members.contains_key(&key),
                Value::Array(items) => items.contains(&json!(key)),
                Value::String(text) => *text == key,
                Value::Null | Value::Bool(_) | Value::Number(_) => false,
            };
            prop_assert!(!has_key || has_any(&value, &JsonPath::ROOT.has_key(&key)), "{} ? {}", value, key);
        }

        #[test]
        fn what_a_cast_finds_has_the_tokens(value in document(), text in "[ ]?[-+]?[0-9]{1,2}[.e]?[0-9]?[ ]?|[tfyno]{1,2}|ON|off|0x1f|1_0|Infinity", low in -40..40_i32, length in 0..5_i32) {
            let high = low + length;
            let range = (Ordinal::of_float(low.into()), Ordinal::of_float(high.into()));
            let within = |number: f64| (f64::from(low)..=f64::from(high)).contains(&number);
            let path = JsonPath::ROOT.key("k");
            let has = |document: &Value, ranges: &[(Ordinal, Ordinal)]| {
                let own = of_binary(FilterKind::Jsonb, &jsonb(document));
                ranges.iter().any(|(low, high)| own.iter().any(|token| (low.get()..=high.get()).contains(token)))
            };
            let numbers = [Value::from(f64::from(low) - 0.5), Value::from(f64::from(low) + 0.25), Value::from(low), value];
            for value in numbers.into_iter().chain([Value::from(text.clone())]) {
                let document = json!({"k": value});
                if let Some(number) = value.as_f64() {
                    prop_assert!(!within(number) || has(&document, &path.has_number(range, false, false)), "{}", document);
                    // PostgreSQL rounds halves away from zero
                    prop_assert!(!within(number.round()) || has(&document, &path.has_number(range, false, true)), "{}", document);
                }
                let as_text = self::text(&value).map(|text| text.trim().to_owned()).unwrap_or_default();
                if as_text.parse().is_ok_and(within) {
                    prop_assert!(has(&document, &path.has_number(range, true, false)), "{}", document);
                }
                if ["0x1f", "1_0", "Infinity"].contains(&as_text.as_str()) {
                    prop_assert!(has(&document, &path.has_number(range, true, false)), "{}", document);
                }
                let lower = as_text.to_ascii_lowercase();
                for (value, spellings) in [(true, ["1", "t", "true", "y", "on"]), (false, ["0", "f", "false", "n", "off"])] {
                    if spellings.contains(&lower.as_str()) {
                        prop_assert!(has_any(&document, &path.has_bool(value, true)), "{}", document);
                        prop_assert!(!has_any(&document, &path.has_bool(!value, true)), "{}", document);
                    }
                }
            }
        }

        #[test]
        fn a_document_contains_its_parts(value in document()) {
            let tokens = JsonPath::ROOT.contains(&value.to_string()).unwrap();
            prop_assert!(has_all(&value, &tokens));
        }

        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..60), array: bool) {
            let head = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 25, 0, 0, 0, 2, 0, 0, 0, 1];
            let bytes = if array { [&head[..], &bytes].concat() } else { bytes };
            for kind in [FilterKind::Jsonb, FilterKind::Array(ValueKind::Text), FilterKind::Array(ValueKind::Int4)] {
                prop_assert!(of_binary(kind, &bytes).len() <= MAX_TOKENS * 3);
            }
        }
    }

    #[test]
    fn documents_are_told_apart() {
        let check = |document: Value, tokens: &[Ordinal], expected: bool| {
            assert_eq!(has_any(&document, tokens), expected, "{document}");
        };
        let en = JsonPath::ROOT.key("lang").has_text("en").unwrap();
        check(json!({"lang": "en", "n": 1}), &en, true);
        check(json!({"lang": "de"}), &en, false);
        check(json!({"n": {"lang": "en"}}), &en, false);
        check(json!({"lang": {"en": 1}}), &en, false);
        let five = JsonPath::ROOT.contains(r#"{"n": 5.00}"#).unwrap();
        check(json!({"n": 5}), &five, true);
        check(json!({"n": "5"}), &five, false);
        let key = JsonPath::ROOT.key("a").has_key("b");
        check(json!({"a": {"b": null}}), &key, true);
        check(json!({"a": ["b"]}), &key, true);
        check(json!({"b": 1}), &key, false);
        assert_eq!(JsonPath::ROOT.has_text("[1]"), None);
        assert_eq!(JsonPath::ROOT.contains("{}"), Some(vec![]));
        assert_eq!(
            JsonPath::ROOT.contains(r#"{"a":1,"a":2}"#),
            JsonPath::ROOT.contains(r#"{"a":2}"#)
        );
    }

    /// The binary form of an array of 32-bit integers.
    fn ints(elements: &[Option<i32>]) -> Vec<u8> {
        let length = i32::try_from(elements.len()).unwrap();
        let mut bytes: Vec<u8> = [1, 1, 23, length, 1]
            .into_iter()
            .flat_map(i32::to_be_bytes)
            .collect();
        for element in elements {
            match element {
                Some(element) => bytes.extend([4, *element].into_iter().flat_map(i32::to_be_bytes)),
                None => bytes.extend((-1_i32).to_be_bytes()),
            }
        }
        bytes
    }

    #[test]
    fn arrays_have_their_elements() {
        let kind = FilterKind::Array(ValueKind::Int4);
        let tokens = |numbers: &[i64]| -> Vec<u64> {
            numbers.iter().map(|n| Ordinal::of_int(*n).get()).collect()
        };
        assert_eq!(
            of_binary(kind, &ints(&[Some(2), None, Some(-1), Some(2)])),
            tokens(&[-1, 2])
        );
        assert_eq!(of_binary(kind, &ints(&[])), tokens(&[]));
        let nested = [2, 0, 23, 2, 1, 1, 1, 4, 7, 4, 8]
            .into_iter()
            .flat_map(i32::to_be_bytes);
        assert_eq!(
            of_binary(kind, &nested.collect::<Vec<u8>>()),
            tokens(&[7, 8])
        );
        // Too many, of another type, cut short: nothing is known of it.
        let every = vec![EVERY.get()];
        let many: Vec<Option<i32>> = (0..300).map(Some).collect();
        assert_eq!(of_binary(kind, &ints(&many)), every);
        assert_eq!(
            of_binary(kind, &ints(&many[..MAX_TOKENS])).len(),
            MAX_TOKENS
        );
        assert_eq!(
            of_binary(FilterKind::Array(ValueKind::Text), &ints(&[Some(1)])),
            every
        );
        assert_eq!(of_binary(kind, &ints(&[Some(1)])[..22]), every);
        assert_eq!(of_binary(FilterKind::Jsonb, b"\x02{}"), every);
        assert_eq!(of_binary(FilterKind::Jsonb, b""), every);
    }
}
