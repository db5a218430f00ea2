//! The text of a JSON document → a tree. Pure; never panics, and reads nothing that is too deep or too large. It is not there
//! to refuse documents: PostgreSQL has read them, or will. Numbers that PostgreSQL takes for equal are equal here.

use std::borrow::Cow;

/// Deepest nesting: reading recurses.
const MAX_DEPTH: usize = 64;

/// A document.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json<'a> {
    Null,
    Bool(bool),
    /// The nearest double, which equal numbers share; infinite beyond the greatest.
    Number(f64),
    String(Cow<'a, str>),
    Array(Vec<Json<'a>>),
    /// Each key once: of several values the last counts, as for PostgreSQL.
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

/// Reads a document of at most so many values and keys.
pub(super) fn read(text: &str, most: usize) -> Option<Json<'_>> {
    let mut reader = Reader { rest: text, most };
    let document = reader.value(0)?;
    reader.space();
    reader.rest.is_empty().then_some(document)
}

struct Reader<'a> {
    rest: &'a str,
    /// Values and keys that may still come.
    most: usize,
}

impl<'a> Reader<'a> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    /// Takes a symbol, after spaces.
    fn take(&mut self, symbol: &str) -> Option<()> {
        self.space();
        self.rest = self.rest.strip_prefix(symbol)?;
        Some(())
    }

    fn count(&mut self) -> Option<()> {
        self.most = self.most.checked_sub(1)?;
        Some(())
    }

    fn value(&mut self, depth: usize) -> Option<Json<'a>> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.space();
        match self.rest.as_bytes().first()? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => {
                self.count()?;
                Some(Json::String(self.string()?))
            }
            _ => {
                self.count()?;
                self.word()
            }
        }
    }

    fn word(&mut self) -> Option<Json<'a>> {
        for (word, value) in [
            ("null", Json::Null),
            ("true", Json::Bool(true)),
            ("false", Json::Bool(false)),
        ] {
            if self.take(word).is_some() {
                return Some(value);
            }
        }
        let is_part = |c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E');
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (number, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        number.parse().ok().map(Json::Number)
    }

    fn array(&mut self, depth: usize) -> Option<Json<'a>> {
        let mut items = Vec::new();
        self.take("[")?;
        if self.take("]").is_some() {
            return Some(Json::Array(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if self.take("]").is_some() {
                return Some(Json::Array(items));
            }
            self.take(",")?;
        }
    }

    fn object(&mut self, depth: usize) -> Option<Json<'a>> {
        let mut members: Vec<(Cow<'a, str>, Json<'a>)> = Vec::new();
        self.take("{")?;
        if self.take("}").is_some() {
            return Some(Json::Object(members));
        }
        loop {
            self.space();
            self.count()?;
            let key = self.string()?;
            self.take(":")?;
            let value = self.value(depth + 1)?;
            members.retain(|(other, _)| *other != key);
            members.push((key, value));
            if self.take("}").is_some() {
                return Some(Json::Object(members));
            }
            self.take(",")?;
        }
    }

    fn string(&mut self) -> Option<Cow<'a, str>> {
        let text = self.rest.strip_prefix('"')?;
        let end = text.find(['"', '\\'])?;
        let (plain, rest) = text.split_at_checked(end)?;
        if let Some(rest) = rest.strip_prefix('"') {
            self.rest = rest;
            return Some(Cow::Borrowed(plain));
        }
        let mut string = String::from(plain);
        let mut characters = rest.chars();
        loop {
            match characters.next()? {
                '"' => {
                    self.rest = characters.as_str();
                    return Some(Cow::Owned(string));
                }
                '\\' => string.push(escaped(&mut characters)?),
                other => string.push(other),
            }
        }
    }
}

/// The character that an escape means, after its backslash.
fn escaped(characters: &mut std::str::Chars<'_>) -> Option<char> {
    Some(match characters.next()? {
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'u' => {
            let first = unit(characters)?;
            let units = if (0xD800..0xDC00).contains(&first) {
                let next = (characters.next()?, characters.next()?);
                if next != ('\\', 'u') {
                    return None;
                }
                vec![first, unit(characters)?]
            } else {
                vec![first]
            };
            char::decode_utf16(units).next()?.ok()?
        }
        plain @ ('"' | '\\' | '/') => plain,
        _ => return None,
    })
}

/// Four hexadecimal digits.
fn unit(characters: &mut std::str::Chars<'_>) -> Option<u16> {
    let mut unit = 0;
    for _ in 0..4 {
        let digit = characters.next()?.to_digit(16)?;
        unit = unit << 4 | u16::try_from(digit).ok()?;
    }
    Some(unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn show(json: &Json<'_>) -> String {
        match json {
            Json::Null => "null".into(),
            Json::Bool(value) => value.to_string(),
            Json::Number(number) => number.to_string(),
            Json::String(text) => format!("{text:?}"),
            Json::Array(items) => {
                let items: Vec<String> = items.iter().map(show).collect();
                format!("[{}]", items.join(" "))
            }
            Json::Object(members) => {
                let member =
                    |(key, value): &(Cow<'_, str>, Json<'_>)| format!("{key:?}:{}", show(value));
                let members: Vec<String> = members.iter().map(member).collect();
                format!("{{{}}}", members.join(" "))
            }
        }
    }

    #[test]
    fn documents_are_read() {
        for (text, expected) in [
            ("null", "null"),
            (" [true , false,null ] ", "[true false null]"),
            ("{\"a\": 1, \"b\": {\"c\": []}}", r#"{"a":1 "b":{"c":[]}}"#),
            ("{\"a\":1,\"b\":2,\"a\":3}", r#"{"b":2 "a":3}"#),
            ("[1.50, 1.5, 15e-1, -0.0, 1e400]", "[1.5 1.5 1.5 -0 inf]"),
            (r#""a\"\\\/\n\u00e9\uD83D\uDE00""#, "\"a\\\"\\\\/\\né😀\""),
            ("\"ä\"", "\"ä\""),
            ("{}", "{}"),
        ] {
            assert_eq!(
                read(text, 20).as_ref().map(show).as_deref(),
                Some(expected),
                "{text}"
            );
        }
        for text in [
            "",
            "[",
            "[1",
            "[1,",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":1",
            "{a:1}",
            "nul",
            "1 2",
            "\"",
            "\"\\",
            "\"\\x\"",
            "\"\\ud83d\"",
            "\"\\ud83d\\u0041\"",
            "\"\\u12\"",
            "-",
            "e",
            "[1]]",
            "é",
        ] {
            assert_eq!(read(text, 20), None, "{text}");
        }
    }

    #[test]
    fn what_is_too_large_or_too_deep_is_not_read() {
        assert!(read("[1,2,3]", 3).is_some());
        assert!(read("[1,2,3,4]", 3).is_none());
        assert!(read("{\"a\":1}", 2).is_some());
        assert!(read("{\"a\":1}", 1).is_none());
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(read(&nested(MAX_DEPTH), 9).is_some());
        assert!(read(&nested(100_000), 9).is_none());
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[\\[\\]{}\",:\\\\ue0-9 .\\-a-fA-F]{0,40}") {
            let _ = read(&text, 30);
        }

        #[test]
        fn reads_what_others_write(text in "\\PC{0,20}", number: i32, decimals in 0_usize..9) {
            let written = serde_json::json!({text.clone(): [number, {"k": text}]}).to_string();
            let expected = format!("{{{text:?}:[{number} {{\"k\":{text:?}}}]}}");
            prop_assert_eq!(read(&written, 9).as_ref().map(show), Some(expected));
            let equal = [format!("{number}"), format!("{number}.{}", "0".repeat(decimals + 1)), format!("{number}e0")];
            for other in &equal {
                prop_assert_eq!(read(other, 1), Some(Json::Number(number.into())));
            }
        }
    }
}
