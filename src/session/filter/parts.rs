//! Conditions on what is in an array or in a document → what the index knows of every row that meets them.

use super::{Parameters, Ranges, Value};
use crate::catalog::{Comparison, FilterKind, ValueKind};
use crate::index::{Constant, JsonPath, Ordinal};
use crate::query::{Condition, Items, Operand, OperandValue, Step, Test};
use crate::session::messages::Format;

/// `json`, `text`, `varchar`: what a document is cast from.
const TEXTS: [u32; 3] = [114, 25, 1043];

impl Parameters<'_> {
    /// What a condition on an array says of its elements.
    pub(super) fn of_array(&self, test: &Test, kind: ValueKind) -> Option<Vec<Ranges>> {
        let one = |value: &Constant, comparison| Some(vec![value.range(kind, comparison)?]);
        let equal = |value: &Constant| one(value, Comparison::Equal);
        match test {
            Test::Contains(items) => match self.items(items, kind)?.map(all_of) {
                Some(Some(elements)) => useful(elements.iter().map(equal).collect::<Option<_>>()?),
                // NULL contains nothing, and nothing contains NULL.
                Some(None) | None => Some(never()),
            },
            // A NULL among the elements is equal to another here, but says nothing.
            Test::Compare(Comparison::Equal, array) => {
                let elements = self.elements(array, kind)?;
                useful(
                    elements
                        .iter()
                        .flatten()
                        .map(equal)
                        .collect::<Option<_>>()?,
                )
            }
            Test::Overlaps(items) => {
                let elements = self.items(items, kind)?.unwrap_or_default();
                let ranges = elements.iter().flatten().map(equal);
                Some(vec![ranges.collect::<Option<Vec<_>>>()?.concat()])
            }
            Test::Element(comparison, operand) => Some(vec![match self.value(operand, kind)? {
                Some(value) => one(&value, *comparison)?,
                None => Vec::new(),
            }]),
            Test::Compare(..)
            | Test::Between(..)
            | Test::In(_)
            | Test::Any(_)
            | Test::Is(_)
            | Test::Key(_)
            | Test::AnyKey(_)
            | Test::AllKeys(_) => None,
        }
    }

    /// What a condition on a document, or on a part of one, says of what is in it.
    pub(super) fn of_document(&self, condition: &Condition) -> Option<Vec<Ranges>> {
        let path = self.path(&condition.path)?;
        if condition.as_text {
            return self.of_text(path, &condition.test);
        }
        let keys = |items| Some(self.items(items, ValueKind::Text)?.unwrap_or_default());
        let has_key = |key: &Constant| Some(points(path.has_key(text_of(key)?)));
        match &condition.test {
            Test::Contains(Items::Whole(document)) | Test::Compare(Comparison::Equal, document) => {
                match self.document(path, document)? {
                    Some(tokens) => {
                        useful(tokens.into_iter().map(|token| points([token])).collect())
                    }
                    None => Some(never()),
                }
            }
            Test::Key(key) => Some(match self.value(key, ValueKind::Text)? {
                Some(key) => vec![has_key(&key)?],
                None => never(),
            }),
            // NULLs among the keys are passed over.
            Test::AnyKey(items) => {
                let ranges = keys(items)?
                    .iter()
                    .flatten()
                    .map(has_key)
                    .collect::<Option<Vec<_>>>();
                Some(vec![ranges?.concat()])
            }
            Test::AllKeys(items) => match self.items(items, ValueKind::Text)? {
                Some(keys) => useful(keys.iter().flatten().map(has_key).collect::<Option<_>>()?),
                None => Some(never()),
            },
            Test::Compare(..)
            | Test::Contains(Items::Each(_))
            | Test::Between(..)
            | Test::In(_)
            | Test::Any(_)
            | Test::Is(_)
            | Test::Element(..)
            | Test::Overlaps(_) => None,
        }
    }

    /// What a condition on the text of a part says of it.
    fn of_text(&self, path: JsonPath, test: &Test) -> Option<Vec<Ranges>> {
        let value = |operand| self.value(operand, ValueKind::Text);
        let texts = match test {
            Test::Compare(Comparison::Equal, operand) => vec![value(operand)?],
            Test::In(operands) if self.is_of_one_type(operands, ValueKind::Text) => {
                operands.iter().map(value).collect::<Option<_>>()?
            }
            Test::Any(array) => self.elements(array, ValueKind::Text)?,
            Test::Compare(..)
            | Test::In(_)
            | Test::Between(..)
            | Test::Is(_)
            | Test::Element(..)
            | Test::Contains(_)
            | Test::Overlaps(_)
            | Test::Key(_)
            | Test::AnyKey(_)
            | Test::AllKeys(_) => return None,
        };
        let has_text = |text: &Constant| Some(points(path.has_text(text_of(text)?)?));
        let ranges = texts
            .iter()
            .flatten()
            .map(has_text)
            .collect::<Option<Vec<_>>>();
        Some(vec![ranges?.concat()])
    }

    /// Where steps into a document lead. Places in arrays make no difference.
    fn path(&self, steps: &[Step]) -> Option<JsonPath> {
        let mut path = JsonPath::ROOT;
        for step in steps {
            match step {
                Step::One(Operand {
                    value: OperandValue::Number(_),
                    cast: None,
                }) => {}
                Step::One(key) => path = path.key(text_of(&self.value(key, ValueKind::Text)??)?),
                Step::Many(keys) => {
                    for key in self.elements(keys, ValueKind::Text)? {
                        let key = key?;
                        let key = text_of(&key)?;
                        // Perhaps a place in an array, perhaps a key.
                        if key
                            .trim_start()
                            .starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-'))
                        {
                            return None;
                        }
                        path = path.key(key);
                    }
                }
            }
        }
        Some(path)
    }

    /// The elements of an array; `Some(None)` for NULL.
    fn items(&self, items: &Items, kind: ValueKind) -> Option<Option<Vec<Value>>> {
        match items {
            Items::Each(operands) => {
                let values = operands.iter().map(|operand| self.value(operand, kind));
                values.collect::<Option<_>>().map(Some)
            }
            Items::Whole(array) if self.is_null(array) => Some(None),
            Items::Whole(array) => self.elements(array, kind).map(Some),
        }
    }

    fn is_null(&self, operand: &Operand) -> bool {
        match operand.value {
            OperandValue::Null => true,
            OperandValue::Parameter(number) => self.bind.is_some() && self.bound(number).is_none(),
            OperandValue::Number(_) | OperandValue::Text(_) | OperandValue::Bool(_) => false,
        }
    }

    /// The tokens of everything that contains that document, or is equal to it; `Some(None)` for NULL.
    fn document(&self, path: JsonPath, operand: &Operand) -> Option<Option<Vec<Ordinal>>> {
        if self.is_null(operand) {
            return Some(None);
        }
        match operand.cast {
            None | Some(FilterKind::Jsonb) => {}
            Some(FilterKind::One(_) | FilterKind::Array(_)) => return None,
        }
        let tokens = match &operand.value {
            OperandValue::Text(text) => path.contains(text),
            OperandValue::Parameter(number) => {
                let (format, value) = self.bound(*number)?;
                let is_own = match self.declared(*number) {
                    0 => !self.query.repeated.contains(number),
                    FilterKind::JSONB_OID => true,
                    _ => false,
                };
                let is_cast = operand.cast.is_some() && TEXTS.contains(&self.declared(*number));
                match format {
                    Format::Binary if is_own => path.contains_binary(value),
                    Format::Binary | Format::Text if is_own || is_cast => {
                        path.contains(std::str::from_utf8(value).ok()?)
                    }
                    Format::Binary | Format::Text => None,
                }
            }
            OperandValue::Null | OperandValue::Number(_) | OperandValue::Bool(_) => None,
        };
        tokens.map(Some)
    }
}

/// The elements; `None` if one is NULL.
fn all_of(elements: Vec<Value>) -> Option<Vec<Constant>> {
    elements.into_iter().collect()
}

/// `None` where every row is allowed.
fn useful(all: Vec<Ranges>) -> Option<Vec<Ranges>> {
    (!all.is_empty()).then_some(all)
}

/// No row is allowed.
fn never() -> Vec<Ranges> {
    vec![Ranges::new()]
}

fn points(tokens: impl IntoIterator<Item = Ordinal>) -> Ranges {
    tokens.into_iter().map(|token| (token, token)).collect()
}

fn text_of(value: &Constant) -> Option<&str> {
    match value {
        Constant::Text(text) => std::str::from_utf8(text).ok(),
        Constant::Bool(_)
        | Constant::Int(_)
        | Constant::Decimal(_)
        | Constant::Float(_)
        | Constant::Uuid(_)
        | Constant::Date(_)
        | Constant::Timestamp(_)
        | Constant::Timestamptz(_) => None,
    }
}
