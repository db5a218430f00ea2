//! WHERE clauses made up at random: what filters recognise, what they do not, in every form of constant and parameter.

use std::collections::HashMap;

use super::values::{COLUMNS, Column, Family, any};
use crate::harness::Random;

/// A parameter: its declared type (0: none), whether it is sent in binary form, its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    pub declared: u32,
    pub binary: bool,
    pub value: Option<Vec<u8>>,
}

/// Writes conditions; their parameters follow `$1`.
pub struct Writer<'a> {
    pub random: &'a mut Random,
    pub binary: &'a HashMap<(u32, &'static str), Vec<u8>>,
    /// Whether parameters are used.
    pub bound: bool,
    pub parameters: Vec<Parameter>,
    /// What columns are qualified with.
    pub qualifier: &'static str,
}

const COMPARISONS: &[&str] = &["=", "<>", "<", "<=", ">", ">=", "=", "="];
const KEYS: &[&str] = &["a", "b", "0", ""];

impl Writer<'_> {
    fn one_in(&mut self, number: usize) -> bool {
        self.random.below(number) == 0
    }

    /// A tree of conditions.
    pub fn tree(&mut self, depth: usize) -> String {
        match (depth, self.random.below(7)) {
            (0, _) | (_, 0..=1) => self.condition(),
            (_, 2..=3) => format!("({} and {})", self.tree(depth - 1), self.tree(depth - 1)),
            (_, 4..=5) => format!("({} or {})", self.tree(depth - 1), self.tree(depth - 1)),
            _ => format!("not ({})", self.tree(depth - 1)),
        }
    }

    fn name(&mut self, column: &Column) -> String {
        let qualifier = if self.one_in(2) { self.qualifier } else { "" };
        format!("{qualifier}{}", column.name)
    }

    fn condition(&mut self) -> String {
        let column = any(self.random, COLUMNS);
        let name = self.name(column);
        if self.one_in(8) {
            let negated = if self.one_in(2) { "not " } else { "" };
            return format!("{name} is {negated}null");
        }
        match column.family {
            Family::Array => self.of_array(column, &name),
            Family::Document => self.of_document(column, &name),
            Family::Bool if self.one_in(2) => self.of_bool(&name),
            Family::Number | Family::Time | Family::Text | Family::Bool | Family::Uuid => {
                self.of_value(column, &name)
            }
        }
    }

    fn of_bool(&mut self, name: &str) -> String {
        let tests = [
            "{}",
            "not {}",
            "{} is true",
            "{} is not true",
            "{} is false",
            "{} is not false",
            "{} is unknown",
        ];
        any(self.random, &tests).replace("{}", name)
    }

    fn of_value(&mut self, column: &Column, name: &str) -> String {
        let negated = if self.one_in(3) { "not " } else { "" };
        match self.random.below(11) {
            0 => format!(
                "{name} {negated}between {} and {}",
                self.operand(column),
                self.operand(column)
            ),
            1 | 2 => {
                let count = 1 + self.random.below(3);
                let list: Vec<_> = (0..count).map(|_| self.operand(column)).collect();
                format!("{name} {negated}in ({})", list.join(", "))
            }
            3 | 4 => {
                let (word, array) = (
                    *any(self.random, &["= any", "<> all", "= any", "< any"]),
                    self.array(column),
                );
                format!("{name} {word} ({array})")
            }
            5 => format!("{name} is {negated}distinct from {}", self.operand(column)),
            6 if column.family == Family::Text => {
                let like = [
                    "{} like 'a%'",
                    "{} not like 'a%'",
                    "starts_with({}, 'a')",
                    "{} || 'x' = 'ax'",
                    "upper({}) = 'A'",
                ];
                any(self.random, &like).replace("{}", name)
            }
            6 if column.family == Family::Number => {
                format!("coalesce({name}, 7) = {}", self.operand(column))
            }
            7 => format!(
                "{} {} {name}",
                self.operand(column),
                any(self.random, COMPARISONS)
            ),
            _ => format!(
                "{name} {} {}",
                any(self.random, COMPARISONS),
                self.operand(column)
            ),
        }
    }

    fn of_array(&mut self, column: &Column, name: &str) -> String {
        let element = match column.name {
            "ta" => "t",
            "ia" => "i4",
            _ => "n",
        };
        let element = COLUMNS
            .iter()
            .find(|column| column.name == element)
            .unwrap();
        match self.random.below(5) {
            0 => format!("{name} @> {}", self.operand(column)),
            1 => format!("{} <@ {name}", self.operand(column)),
            2 => format!("{name} && {}", self.operand(column)),
            3 => format!(
                "{} {} any ({name})",
                self.operand(element),
                any(self.random, &["=", "=", "<", ">=", "<>"])
            ),
            _ => format!(
                "{name} {} {}",
                any(self.random, &["=", "=", "<>", "<"]),
                self.operand(column)
            ),
        }
    }

    fn of_document(&mut self, column: &Column, name: &str) -> String {
        if column.name == "jn" {
            let part = *any(
                self.random,
                &[
                    "({} ->> 'x')::numeric",
                    "({} -> 'x')::numeric",
                    "({} ->> 'x')::float8",
                ],
            );
            let part = part.replace("{}", name);
            let number = COLUMNS.iter().find(|column| column.name == "n").unwrap();
            // a JSON null cannot be cast, but its text, which is NULL
            let part = part.replace("->", "->>").replace(">>>", ">>");
            return self.of_value(number, &part);
        }
        let key = *any(self.random, KEYS);
        let text = COLUMNS.iter().find(|column| column.name == "t").unwrap();
        match self.random.below(9) {
            0 | 1 => format!("{name} @> {}", self.operand(column)),
            2 => format!("{name} = {}", self.operand(column)),
            3 => format!("{name} ? '{key}'"),
            4 => format!(
                "{name} {} array['{key}', 'b']",
                any(self.random, &["?|", "?&"])
            ),
            5 => {
                let part = format!("{name} ->> '{key}'");
                self.of_value(text, &part)
            }
            6 => {
                let part = any(
                    self.random,
                    &["-> 'a' ->> 'b'", "#>> '{a,b}'", "->> 0", "-> 'a' ->> 0"],
                );
                format!(
                    "{name} {part} {} {}",
                    any(self.random, &["=", "=", "<>"]),
                    self.operand(text)
                )
            }
            7 => format!(
                "{name} -> '{key}' is {}null",
                if self.one_in(2) { "not " } else { "" }
            ),
            _ => format!("{name} -> '{key}' @> {}", self.operand(column)),
        }
    }

    /// A constant or a parameter to compare a column with: mostly of its type.
    fn operand(&mut self, column: &Column) -> String {
        if self.one_in(20) {
            return "null".to_owned();
        }
        let mut kin = COLUMNS.iter().filter(|other| {
            other.family == column.family
                && !matches!(column.family, Family::Array | Family::Document)
        });
        let kin: Vec<_> = kin.by_ref().collect();
        let of = if self.one_in(5) && !kin.is_empty() {
            *any(self.random, &kin)
        } else {
            column
        };
        let value = *any(self.random, of.values);
        let other = !std::ptr::eq(of, column);
        let is_number =
            of.family == Family::Number && value.parse::<f64>().is_ok_and(f64::is_finite);
        match self.random.below(if self.bound { 12 } else { 5 }) {
            0 if is_number => value.to_owned(),
            0..=2 if !other => format!("'{value}'"),
            0..=4 => format!("'{value}'::{}", of.kind),
            5 => format!("{}::{}", self.parameter(0, false, value, of), column.kind),
            6 => format!("{}::{}", self.parameter(of.oid, true, value, of), of.kind),
            7 if !other => self.parameter(0, true, value, of),
            7..=9 if !other => self.parameter(0, false, value, of),
            10 => self.parameter(of.oid, true, value, of),
            _ => self.parameter(of.oid, false, value, of),
        }
    }

    /// An array to look a column's value up in.
    fn array(&mut self, column: &Column) -> String {
        if self.one_in(2) {
            let count = self.random.below(3);
            let list: Vec<_> = (0..count).map(|_| self.operand(column)).collect();
            return format!("array[{}]::{}[]", list.join(", "), column.kind);
        }
        let count = self.random.below(4);
        let mut element = |_| {
            let value = if self.random.below(6) == 0 {
                return "NULL".to_owned();
            } else {
                any(self.random, column.values)
            };
            format!(
                "\"{}\"",
                value
                    .replace("''", "'")
                    .replace('\\', "\\\\")
                    .replace('"', "\\\"")
            )
        };
        let elements: Vec<_> = (0..count).map(&mut element).collect();
        let text = format!("{{{}}}", elements.join(","));
        if self.bound && self.one_in(2) {
            let cast = if self.one_in(2) {
                format!("::{}[]", column.kind)
            } else {
                String::new()
            };
            let parameter = Parameter {
                declared: 0,
                binary: false,
                value: Some(text.into_bytes()),
            };
            return format!("{}{cast}", self.add(parameter));
        }
        let cast = if self.one_in(2) {
            format!("::{}[]", column.kind)
        } else {
            String::new()
        };
        format!("'{}'{cast}", text.replace('\'', "''"))
    }

    fn parameter(
        &mut self,
        declared: u32,
        binary: bool,
        value: &'static str,
        of: &Column,
    ) -> String {
        let bytes = if binary {
            self.binary[&(of.oid, value)].clone()
        } else {
            value.replace("''", "'").into_bytes()
        };
        let value = (!self.one_in(15)).then_some(bytes);
        self.add(Parameter {
            declared,
            binary,
            value,
        })
    }

    fn add(&mut self, parameter: Parameter) -> String {
        let same = self.parameters.iter().position(|other| *other == parameter);
        let at = same
            .filter(|_| self.random.below(2) == 0)
            .unwrap_or_else(|| {
                self.parameters.push(parameter);
                self.parameters.len() - 1
            });
        format!("${}", at + 2)
    }
}
