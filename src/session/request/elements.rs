//! An array of vectors, in text or binary form → its vectors. One with NULL in it, or of more than one dimension, is not read.

use super::{Steps, compared, sent_vector};
use crate::catalog::IndexDefinition;
use crate::query::{MAX_VECTORS, RelayReason};
use crate::session::filter::quoted_element;
use crate::session::messages::Format;
use crate::vector::Vector;

/// The vectors of an array that was sent. Of what type its elements are, its binary form says.
pub(super) fn of_parameter(
    steps: &Steps<'_>,
    index: &IndexDefinition,
    (_, format, value): (u32, Format, &[u8]),
) -> Result<Vec<Vector>, RelayReason> {
    match format {
        Format::Text => {
            let text = std::str::from_utf8(value).map_err(|_| RelayReason::MalformedQuery)?;
            of_text(steps, index, text)
        }
        Format::Binary => {
            let elements = binary_elements(value)?;
            let vectors = elements
                .into_iter()
                .map(|(kind, value)| sent_vector(steps, index, (kind, Format::Binary, value)));
            vectors.collect()
        }
    }
}

/// The vectors of an array in text form.
pub(super) fn of_text(
    steps: &Steps<'_>,
    index: &IndexDefinition,
    text: &str,
) -> Result<Vec<Vector>, RelayReason> {
    let kind = steps.kind_unless_declared(index);
    let kind = kind.ok_or(RelayReason::ParameterType)?;
    let elements = text_elements(text).ok_or(RelayReason::MalformedQuery)?;
    bounded(elements.len())?;
    let vectors = elements
        .iter()
        .map(|text| compared(steps, index, kind, Vector::from_text(kind, text)));
    vectors.collect()
}

fn bounded(count: usize) -> Result<(), RelayReason> {
    match count {
        0 => Err(RelayReason::NullQuery),
        1..=MAX_VECTORS => Ok(()),
        _ => Err(RelayReason::BatchTooLarge),
    }
}

/// The elements of `{"[1,2]","[3,4]"}`, quoted or, where they have no comma, not. One more than are allowed are read at most.
fn text_elements(text: &str) -> Option<Vec<String>> {
    let inner = text
        .trim_matches(' ')
        .strip_prefix('{')?
        .strip_suffix('}')?;
    let mut elements = Vec::new();
    let mut rest = inner.trim_matches(' ');
    while !rest.is_empty() && elements.len() <= MAX_VECTORS {
        let (element, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_element(quoted)?,
            None => {
                let (element, after) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
                let element = element.trim_end_matches(' ');
                if element.is_empty() || element.contains(['{', '}', '"', '\\']) {
                    return None;
                }
                (element.to_owned(), after)
            }
        };
        elements.push(element);
        let after = after.trim_start_matches(' ');
        rest = match after.strip_prefix(',') {
            Some(next) => Some(next.trim_start_matches(' ')).filter(|next| !next.is_empty())?,
            None if after.is_empty() => after,
            None => return None,
        };
    }
    Some(elements)
}

/// The elements of an array in binary form, each with their type: dimensions, whether there are NULLs, the type, length and
/// lower bound of the one dimension, then each element's length and bytes.
fn binary_elements(value: &[u8]) -> Result<Vec<(u32, &[u8])>, RelayReason> {
    let malformed = RelayReason::MalformedQuery;
    let mut rest = value;
    let mut word = || {
        let (word, after) = rest.split_first_chunk::<4>()?;
        rest = after;
        Some(u32::from_be_bytes(*word))
    };
    let mut header = || Some((word()?, word()?, word()?, word()?, word()?));
    let (dimensions, _nulls, kind, length, _lower) = header().ok_or(malformed)?;
    if dimensions != 1 {
        return Err(malformed);
    }
    let length = usize::try_from(length).map_err(|_| malformed)?;
    bounded(length)?;
    let mut elements = Vec::with_capacity(length);
    for _ in 0..length {
        let (size, after) = rest.split_first_chunk::<4>().ok_or(malformed)?;
        let size = usize::try_from(i32::from_be_bytes(*size));
        let size = size.map_err(|_| RelayReason::NullQuery)?;
        let (element, after) = after.split_at_checked(size).ok_or(malformed)?;
        elements.push((kind, element));
        rest = after;
    }
    match rest {
        [] => Ok(elements),
        [_, ..] => Err(malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_arrays_are_read_as_postgres_reads_them() {
        let table: &[(&str, Option<&[&str]>)] = &[
            ("{}", Some(&[])),
            (r#"{"[1,2]","[3,4]"}"#, Some(&["[1,2]", "[3,4]"])),
            (r#" { "[1,2]" , "[3,4]" } "#, Some(&["[1,2]", "[3,4]"])),
            ("{[1],[2]}", Some(&["[1]", "[2]"])),
            (r#"{"a\"b\\"}"#, Some(&["a\"b\\"])),
            (r#"{"[1,2]",}"#, None),
            (r#"{,"[1,2]"}"#, None),
            (r#"{"[1,2]" "[1,2]"}"#, None),
            (r#"{"[1,2]"#, None),
            (r#"{{"[1,2]"}}"#, None),
            (r#"[1:1]={"[1,2]"}"#, None),
        ];
        for (text, expected) in table {
            let read = text_elements(text);
            let read: Option<Vec<&str>> = read
                .as_ref()
                .map(|elements| elements.iter().map(String::as_str).collect());
            assert_eq!(read.as_deref(), *expected, "{text}");
        }
    }

    #[test]
    fn binary_arrays_are_read_whole_or_not() {
        let array = |words: &[i32], tail: &[u8]| {
            let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            bytes.extend(tail);
            bytes
        };
        let good = array(&[1, 0, 77, 2, 1, 1], b"a\0\0\0\x01b");
        assert_eq!(
            binary_elements(&good),
            Ok(vec![(77, &b"a"[..]), (77, b"b")])
        );
        for end in 0..good.len() {
            assert!(binary_elements(&good[..end]).is_err(), "{end}");
        }
        let long = i32::try_from(MAX_VECTORS + 1).unwrap();
        for (bytes, reason) in [
            (
                array(&[1, 0, 77, 1, 1, 1], b"ab"),
                RelayReason::MalformedQuery,
            ),
            (array(&[1, 1, 77, 1, 1, -1], b""), RelayReason::NullQuery),
            (
                array(&[2, 0, 77, 1, 1, 1, 1, 1], b"a"),
                RelayReason::MalformedQuery,
            ),
            (array(&[1, 0, 77, long, 1], b""), RelayReason::BatchTooLarge),
            (array(&[1, 0, 77, 0, 1], b""), RelayReason::NullQuery),
        ] {
            assert_eq!(binary_elements(&bytes), Err(reason));
        }
    }
}
