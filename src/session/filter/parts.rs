//! Conditions on what is in an array or in a document → what the index knows of every row that meets them.

use super::{NULL, Parameters, Ranges, Value};
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
            Test::Null(true) => Some(vec![vec![NULL]]),
            Test::Element(comparison, operand) => Some(vec![match self.value(operand, kind)? {
                Some(value) => one(&value, *comparison)?,
                None => Vec::new(),
            }]),
            Test::Compare(..)
            | Test::Between(..)
            | Test::In(_)
            | Test::Any(_)
            | Test::Differs(_)
            | Test::Distinct(_)
            | Test::NotDistinct(_)
            | Test::Outside(..)
            | Test::NotIn(_)
            | Test::NotAny(_)
            | Test::Is(_)
            | Test::IsNot(_)
            | Test::Null(false)
            | Test::Key(_)
            | Test::AnyKey(_)
            | Test::AllKeys(_) => None,
        }
    }

    /// What a condition on a document, or on a part of one, says of what is in it.
    pub(super) fn of_document(&self, condition: &Condition) -> Option<Vec<Ranges>> {
        let path = self.path(&condition.path)?;
        if let (Test::Null(is_null), Some((last, before))) =
            (&condition.test, condition.path.split_last())
        {
            return match last {
                Step::One(key) if !is_null => self.has_part(self.path(before)?, key),
                Step::One(_) | Step::Many(_) => None,
            };
        }
        match condition.cast {
            Some(kind) => return self.of_cast(path, condition.as_text, kind, &condition.test),
            None if condition.as_text => return self.of_text(path, &condition.test),
            None => {}
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
            Test::Null(true) => Some(vec![vec![NULL]]),
            Test::Compare(..)
            | Test::Contains(Items::Each(_))
            | Test::Between(..)
            | Test::In(_)
            | Test::Any(_)
            | Test::Differs(_)
            | Test::Distinct(_)
            | Test::NotDistinct(_)
            | Test::Outside(..)
            | Test::NotIn(_)
            | Test::NotAny(_)
            | Test::Is(_)
            | Test::IsNot(_)
            | Test::Null(false)
            | Test::Element(..)
            | Test::Overlaps(_) => None,
        }
    }

    /// What a condition on the text of a part says of it.
    fn of_text(&self, path: JsonPath, test: &Test) -> Option<Vec<Ranges>> {
        let value = |operand| self.value(operand, ValueKind::Text);
        let texts = match test {
            Test::Compare(Comparison::Equal, operand) => vec![value(operand)?],
            Test::NotDistinct(operand) => vec![Some(value(operand)??)],
            Test::In(operands) if self.is_of_one_type(operands, ValueKind::Text) => {
                operands.iter().map(value).collect::<Option<_>>()?
            }
            Test::Any(array) => self.elements(array, ValueKind::Text)?,
            Test::Compare(..)
            | Test::In(_)
            | Test::Between(..)
            | Test::Differs(_)
            | Test::Distinct(_)
            | Test::Outside(..)
            | Test::NotIn(_)
            | Test::NotAny(_)
            | Test::Is(_)
            | Test::IsNot(_)
            | Test::Null(_)
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

    /// What is said by a part's being there: that its key is, unless it is a place in an array.
    fn has_part(&self, parent: JsonPath, key: &Operand) -> Option<Vec<Ranges>> {
        if matches!(key.value, OperandValue::Number(_)) {
            return None;
        }
        Some(match self.value(key, ValueKind::Text)? {
            Some(key) => vec![points(parent.has_key(text_of(&key)?))],
            None => never(),
        })
    }

    /// What a condition on a part that is cast says of it. A row whose part cannot be cast need not be found.
    fn of_cast(
        &self,
        path: JsonPath,
        as_text: bool,
        kind: ValueKind,
        test: &Test,
    ) -> Option<Vec<Ranges>> {
        let rounds = match kind {
            ValueKind::Int2 | ValueKind::Int4 | ValueKind::Int8 => !as_text,
            ValueKind::Numeric | ValueKind::Float8 => false,
            ValueKind::Bool => return self.of_bool(path, as_text, test),
            ValueKind::Text if as_text => return self.of_text(path, test),
            ValueKind::Text
            | ValueKind::Float4
            | ValueKind::Uuid
            | ValueKind::Date
            | ValueKind::Timestamp
            | ValueKind::Timestamptz => return None,
        };
        // Of NULL nothing is known here.
        if matches!(
            test,
            Test::Is(_) | Test::IsNot(_) | Test::Null(_) | Test::Distinct(_) | Test::NotDistinct(_)
        ) {
            return None;
        }
        let ranges = self.ranges(test, kind, ValueKind::Numeric)?;
        let numbers = ranges
            .into_iter()
            .filter(|(low, high)| low <= high)
            .flat_map(|range| path.has_number(range, as_text, rounds));
        Some(vec![numbers.collect()])
    }

    fn of_bool(&self, path: JsonPath, as_text: bool, test: &Test) -> Option<Vec<Ranges>> {
        let (operand, same) = match test {
            Test::Is(wanted) => return Some(vec![points(path.has_bool(*wanted, as_text))]),
            Test::Compare(Comparison::Equal, operand) => (operand, true),
            Test::Differs(operand) => (operand, false),
            Test::Compare(..)
            | Test::Between(..)
            | Test::Outside(..)
            | Test::Distinct(_)
            | Test::NotDistinct(_)
            | Test::In(_)
            | Test::NotIn(_)
            | Test::Any(_)
            | Test::NotAny(_)
            | Test::IsNot(_)
            | Test::Null(_)
            | Test::Element(..)
            | Test::Contains(_)
            | Test::Overlaps(_)
            | Test::Key(_)
            | Test::AnyKey(_)
            | Test::AllKeys(_) => return None,
        };
        match self.value(operand, ValueKind::Bool)? {
            Some(Constant::Bool(value)) => {
                Some(vec![points(path.has_bool(value == same, as_text))])
            }
            Some(_) => None,
            None => Some(never()),
        }
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

    pub(super) fn is_null(&self, operand: &Operand) -> bool {
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
