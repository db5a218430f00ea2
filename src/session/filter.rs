//! The conditions of a statement and its parameters → the filter that an index applies before it proposes a row. Pure.
//! What it cannot read as Postgres surely does, it leaves out: Postgres applies every condition to the rows proposed.

mod parts;

use super::messages::{BindBody, Format};
use crate::catalog::{Comparison, FilterKind, IncludeColumn, IndexDefinition, ValueKind};
use crate::index::{self, Constant, Filter, Ordinal};
use crate::query::{Condition, KnnQuery, MAX_VALUES, Operand, OperandValue, Test};

/// Most parts of one condition that are used: the elements or values that a row must contain.
const MAX_PARTS: usize = 32;

/// `unknown`: as if no type were declared.
const UNKNOWN: u32 = 705;

/// NULL.
const NULL: (Ordinal, Ordinal) = (Ordinal::NULL, Ordinal::NULL);
/// Every value.
const NOT_NULL: (Ordinal, Ordinal) = (Ordinal::LEAST, Ordinal::GREATEST);

/// Any of them.
type Ranges = Vec<(Ordinal, Ordinal)>;

/// A value that was read; `None` is NULL.
type Value = Option<Constant>;

/// Where the parameters' values are.
struct Parameters<'a> {
    query: &'a KnnQuery,
    types: &'a [u32],
    bind: Option<&'a BindBody<'a>>,
}

/// The filter that follows from the statement's conditions.
pub(super) fn read(
    query: &KnnQuery,
    index: &IndexDefinition,
    types: &[u32],
    bind: Option<&BindBody<'_>>,
) -> Filter {
    let parameters = Parameters { query, types, bind };
    let mut filter = Filter::default();
    for group in &query.conditions {
        let each = group.iter().map(|condition| {
            let (number, kind) = column(condition, index)?;
            Some((number, parameters.conditions(condition, kind)?))
        });
        if let Some(each) = each.collect::<Option<Vec<_>>>() {
            one_of(each)
                .into_iter()
                .for_each(|group| filter.add_any(group));
        }
    }
    filter
}

/// The INCLUDE column that a condition is about, if filters can use it.
fn column(condition: &Condition, index: &IndexDefinition) -> Option<(usize, FilterKind)> {
    let mut columns = index.include.iter().enumerate();
    let (number, column) = columns.find(|(_, column)| column.name == condition.column)?;
    Some((number, FilterKind::of(column)?))
}

/// Columns with the ranges that they may lie in.
type Group = Vec<(usize, Ranges)>;

/// Several conditions of which one holds, of each of which all parts hold: a part of each together, in every way to choose them.
fn one_of(conditions: Vec<(usize, Vec<Ranges>)>) -> Vec<Group> {
    let mut all: Vec<Group> = vec![Vec::new()];
    for (number, parts) in conditions {
        let used = (MAX_PARTS / all.len().max(1)).max(1);
        let together = all.iter().flat_map(|before| {
            let parts = parts.iter().take(used);
            parts.map(move |part| {
                let mut group = before.clone();
                group.push((number, part.clone()));
                group
            })
        });
        all = together.collect();
    }
    all
}

/// The columns that the filter may be about: the index must know them under the names that they have.
pub(super) fn columns<'a>(
    query: &'a KnnQuery,
    index: &'a IndexDefinition,
) -> impl Iterator<Item = &'a IncludeColumn> {
    let named = |column: &&IncludeColumn| {
        let mut conditions = query.conditions.iter().flatten();
        conditions.any(|condition| condition.column == column.name)
    };
    index.include.iter().filter(named)
}

impl Parameters<'_> {
    /// What a condition allows, all of it at once; `None` when it cannot be used.
    fn conditions(&self, condition: &Condition, kind: FilterKind) -> Option<Vec<Ranges>> {
        match kind {
            FilterKind::Jsonb => self.of_document(condition),
            FilterKind::One(_) | FilterKind::Array(_) if !condition.path.is_empty() => None,
            FilterKind::One(kind) => Some(vec![self.ranges(&condition.test, kind, kind)?]),
            FilterKind::Array(kind) => self.of_array(&condition.test, kind),
        }
    }

    /// What a condition on a value of a kind allows, of the ordinals of values `among` which it is; `None` when it cannot be
    /// used.
    fn ranges(&self, test: &Test, kind: ValueKind, among: ValueKind) -> Option<Ranges> {
        let range = |value: Value, comparison| match value {
            Some(constant) => constant.range(among, comparison).map(Some),
            None => Some(None),
        };
        let all = |operands: &[Operand]| {
            let is_one = self.is_of_one_type(operands, kind);
            let values = operands.iter().map(|operand| self.value(operand, kind));
            values.collect::<Option<Vec<_>>>().filter(|_| is_one)
        };
        // Nothing is known to differ from NULL.
        let others = |values: Vec<Value>| match values.into_iter().collect::<Option<Vec<_>>>() {
            Some(constants) => index::others(among, &constants),
            None => Some(Vec::new()),
        };
        let equal = |values: Vec<Value>| {
            let ranges = values
                .into_iter()
                .map(|value| range(value, Comparison::Equal));
            let ranges: Option<Vec<_>> = ranges.collect();
            Some(ranges?.into_iter().flatten().collect())
        };
        match test {
            Test::Compare(comparison, operand) => {
                let range = range(self.value(operand, kind)?, *comparison)?;
                Some(range.into_iter().collect())
            }
            Test::Between(low, high) => {
                let low = range(self.value(low, kind)?, Comparison::AtLeast)?;
                let high = range(self.value(high, kind)?, Comparison::AtMost)?;
                let both = low.zip(high).map(|((low, _), (_, high))| (low, high));
                Some(both.into_iter().collect())
            }
            Test::Outside(low, high) => {
                let below = range(self.value(low, kind)?, Comparison::Less)?;
                let above = range(self.value(high, kind)?, Comparison::Greater)?;
                Some(below.into_iter().chain(above).collect())
            }
            Test::In(operands) => equal(all(operands)?),
            Test::Any(array) => equal(self.elements(array, kind)?),
            Test::Differs(operand) => others(vec![self.value(operand, kind)?]),
            Test::NotIn(none) if none.is_empty() => None, // `<> ALL (ARRAY[])` is true, for NULL too
            Test::NotIn(operands) => others(all(operands)?),
            Test::NotAny(array) if self.is_null(array) => Some(Vec::new()),
            Test::NotAny(array) => match self.elements(array, kind)? {
                none if none.is_empty() => None, // likewise
                elements => others(elements),
            },
            Test::Distinct(operand) => match self.value(operand, kind)? {
                Some(constant) => {
                    let mut ranges = index::others(among, &[constant])?;
                    ranges.push(NULL);
                    Some(ranges)
                }
                None => Some(vec![NOT_NULL]),
            },
            Test::NotDistinct(operand) => match self.value(operand, kind)? {
                Some(constant) => equal(vec![Some(constant)]),
                None => Some(vec![NULL]),
            },
            Test::Is(wanted) => equal(vec![Some(Constant::Bool(*wanted))]),
            Test::IsNot(value) => {
                let other = Constant::Bool(!value).range(among, Comparison::Equal)?;
                Some(vec![other, NULL])
            }
            Test::Null(true) => Some(vec![NULL]),
            Test::Null(false) => Some(vec![NOT_NULL]),
            Test::Element(..)
            | Test::Contains(_)
            | Test::Overlaps(_)
            | Test::Key(_)
            | Test::AnyKey(_)
            | Test::AllKeys(_) => None,
        }
    }

    /// The declared type of a parameter, 0 without one.
    fn declared(&self, number: u16) -> u32 {
        let index = usize::from(number).wrapping_sub(1);
        let declared = self.types.get(index).copied().unwrap_or(0);
        if declared == UNKNOWN { 0 } else { declared }
    }

    fn bound(&self, number: u16) -> Option<(Format, &[u8])> {
        self.bind?.value(number)
    }

    /// Reads an operand that is compared with a column of that kind.
    fn value(&self, operand: &Operand, kind: ValueKind) -> Option<Value> {
        let cast = match operand.cast {
            Some(FilterKind::One(cast)) => Some(cast),
            Some(FilterKind::Array(_) | FilterKind::Jsonb) => return None,
            None => None,
        };
        let own = cast.unwrap_or(kind);
        let constant = match &operand.value {
            OperandValue::Null => return Some(None),
            OperandValue::Number(text) => match cast {
                // PostgreSQL writes the number in its own way.
                Some(ValueKind::Text) => return None,
                Some(cast) => Constant::from_text(cast, text),
                None => Constant::from_number(text),
            },
            OperandValue::Text(text) => Constant::from_text(own, text),
            OperandValue::Bool(value) => (own == ValueKind::Bool).then_some(Constant::Bool(*value)),
            OperandValue::Parameter(number) => {
                let Some((format, value)) = self.bound(*number) else {
                    return self.bind.map(|_| None);
                };
                let sent = match self.declared(*number) {
                    // Its first use gives it its type: only where that is this one is it known.
                    0 if self.query.repeated.contains(number) => return None,
                    0 => own,
                    oid => ValueKind::from_oid(oid)?,
                };
                let read = match cast {
                    Some(cast) if cast != sent => cast_from(sent, cast, format)?,
                    Some(_) | None => sent,
                };
                one(read, format, value)
            }
        };
        constant.map(Some)
    }

    /// Whether what has no type of its own in a list, parameters and strings, gets the column's: all its members get one type.
    fn is_of_one_type(&self, operands: &[Operand], kind: ValueKind) -> bool {
        let untyped = |operand: &Operand| match operand.value {
            OperandValue::Parameter(number) => operand.cast.is_none() && self.declared(number) == 0,
            OperandValue::Text(_) => operand.cast.is_none(),
            OperandValue::Null | OperandValue::Number(_) | OperandValue::Bool(_) => false,
        };
        let is_fraction = matches!(
            kind,
            ValueKind::Float4 | ValueKind::Float8 | ValueKind::Numeric
        );
        let as_the_column = |operand: &Operand| match (&operand.value, operand.cast) {
            (OperandValue::Parameter(number), None) => {
                let declared = self.declared(*number);
                declared == 0 || ValueKind::from_oid(declared) == Some(kind)
            }
            (OperandValue::Number(text), None) => is_fraction || text.parse::<i64>().is_ok(),
            (_, Some(cast)) => cast == FilterKind::One(kind),
            (OperandValue::Null | OperandValue::Text(_) | OperandValue::Bool(_), None) => true,
        };
        !operands.iter().any(untyped) || operands.iter().all(as_the_column)
    }

    /// Reads the elements of an array.
    fn elements(&self, array: &Operand, kind: ValueKind) -> Option<Vec<Value>> {
        let own = match array.cast {
            Some(FilterKind::Array(own)) => own,
            Some(FilterKind::One(_) | FilterKind::Jsonb) => return None,
            None => kind,
        };
        match &array.value {
            OperandValue::Null => Some(Vec::new()),
            OperandValue::Text(text) => text_elements(own, text),
            OperandValue::Parameter(number) => {
                let Some((format, value)) = self.bound(*number) else {
                    return self.bind.map(|_| Vec::new());
                };
                let sent = match self.declared(*number) {
                    0 if self.query.repeated.contains(number) => return None,
                    0 => own,
                    oid => ValueKind::from_array_oid(oid)?,
                };
                if array.cast.is_some() && own != sent {
                    return None;
                }
                match format {
                    Format::Text => text_elements(sent, std::str::from_utf8(value).ok()?),
                    Format::Binary => binary_elements(sent, value),
                }
            }
            OperandValue::Number(_) | OperandValue::Bool(_) => None,
        }
    }
}

/// As what a parameter is read that was sent as one type and is cast to another.
fn cast_from(sent: ValueKind, cast: ValueKind, format: Format) -> Option<ValueKind> {
    let is_int = |kind| matches!(kind, ValueKind::Int2 | ValueKind::Int4 | ValueKind::Int8);
    match (sent, format) {
        // Text is cast by reading it; its binary form is the text.
        (ValueKind::Text, Format::Text) => Some(cast),
        (sent, _) if is_int(sent) && is_int(cast) => Some(sent),
        (_, Format::Text | Format::Binary) => None,
    }
}

fn one(kind: ValueKind, format: Format, value: &[u8]) -> Option<Constant> {
    match format {
        Format::Text => Constant::from_text(kind, std::str::from_utf8(value).ok()?),
        Format::Binary => Constant::from_binary(kind, value),
    }
}

/// The elements of an array in text form: of one dimension, without explicit bounds.
fn text_elements(kind: ValueKind, text: &str) -> Option<Vec<Value>> {
    let inner = text
        .trim_matches(' ')
        .strip_prefix('{')?
        .strip_suffix('}')?;
    let mut elements = Vec::new();
    if inner.trim_matches(' ').is_empty() {
        return Some(elements);
    }
    let mut rest = inner;
    loop {
        rest = rest.trim_start_matches(' ');
        let value = match rest.strip_prefix('"') {
            Some(quoted) => {
                let (text, after) = quoted_element(quoted)?;
                rest = after.trim_start_matches(' ');
                Some(Constant::from_text(kind, &text)?)
            }
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let (element, after) = rest.split_at_checked(end)?;
                rest = after;
                let element = element.trim_end_matches(' ');
                if element.is_empty()
                    || element.contains(['{', '}', '"', '\\', '\t', '\n', '\r', '\x0b', '\x0c'])
                {
                    return None;
                }
                match element.eq_ignore_ascii_case("null") {
                    true => None,
                    false => Some(Constant::from_text(kind, element)?),
                }
            }
        };
        elements.push(value);
        if elements.len() > MAX_VALUES {
            return None;
        }
        match rest.strip_prefix(',') {
            Some(next) => rest = next,
            None => return rest.is_empty().then_some(elements),
        }
    }
}

/// An element after its opening quote, and what follows its closing one.
pub(super) fn quoted_element(text: &str) -> Option<(String, &str)> {
    let mut element = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((element, text.get(at + 1..)?)),
            '\\' => element.push(characters.next()?.1),
            other => element.push(other),
        }
    }
    None
}

/// The elements of an array in binary form: dimensions, whether there are NULLs, the element type, length and lower bound
/// of the one dimension, then each element's length and bytes.
fn binary_elements(kind: ValueKind, value: &[u8]) -> Option<Vec<Value>> {
    let mut rest = value;
    let mut word = || {
        let (word, after) = rest.split_first_chunk::<4>()?;
        rest = after;
        Some(i32::from_be_bytes(*word))
    };
    let (dimensions, _nulls, element) = (word()?, word()?, word()?);
    if ValueKind::from_oid(element.cast_unsigned()) != Some(kind) {
        return None;
    }
    if dimensions == 0 {
        return rest.is_empty().then(Vec::new);
    }
    let (length, _lower) = (usize::try_from(word()?).ok()?, word()?);
    if dimensions != 1 || length > MAX_VALUES {
        return None;
    }
    let mut elements = Vec::with_capacity(length);
    for _ in 0..length {
        let (size, after) = rest.split_first_chunk::<4>()?;
        rest = after;
        elements.push(match i32::from_be_bytes(*size) {
            -1 => None,
            size => {
                let (bytes, after) = rest.split_at_checked(usize::try_from(size).ok()?)?;
                rest = after;
                Some(Constant::from_binary(kind, bytes)?)
            }
        });
    }
    rest.is_empty().then_some(elements)
}

#[cfg(test)]
mod tests;
