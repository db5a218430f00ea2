//! A random history of a table: its transactions as the stream tells them, and its rows after each.

use super::*;

/// What one transaction does, and the table after it.
pub(super) struct Committed {
    pub(super) commit_lsn: Lsn,
    pub(super) end_lsn: Lsn,
    pub(super) events: Vec<Event>,
    pub(super) after: Rows,
}

pub(super) fn tuple(key: i32, row: Row) -> Vec<Datum> {
    vec![int(key), vector(row.0), int(row.1)]
}

pub(super) fn row_key(key: i32) -> RowKey {
    RowKey::from_parts([&key.to_be_bytes()[..]])
}

/// Endless choices out of a finite script.
pub(super) struct Choices<'a>(pub(super) std::iter::Cycle<std::slice::Iter<'a, u32>>);

impl Choices<'_> {
    pub(super) fn below(&mut self, limit: u32) -> u32 {
        self.0.next().unwrap() % limit
    }

    pub(super) fn key(&mut self) -> i32 {
        i32::try_from(self.below(6)).unwrap()
    }

    pub(super) fn vector(&mut self) -> Option<[f32; 2]> {
        let part = |n: u32| f32::from(u16::try_from(n).unwrap());
        match self.below(5) {
            0 => None,
            _ => Some([part(self.below(9)), part(self.below(9))]),
        }
    }
}

/// One statement on the table, as pgoutput tells it.
fn statement(
    choices: &mut Choices,
    rows: &mut Rows,
    commit_lsn: Lsn,
    table: &Arc<Relation>,
) -> Option<Event> {
    let change = |row| {
        Some(Event::Change(Change {
            commit_lsn,
            relation: Arc::clone(table),
            row,
        }))
    };
    let key = choices.key();
    let number = i32::try_from(choices.below(100)).unwrap();
    let old = rows.get(&key).copied();
    match (choices.below(10), old) {
        (0, _) => {
            rows.clear();
            Some(Event::Truncate {
                commit_lsn,
                relations: vec![Arc::clone(table)],
            })
        }
        (1 | 2, Some(_)) => {
            rows.remove(&key);
            let old = OldTuple::Key(vec![int(key), Datum::Null, Datum::Null]);
            change(RowImage::Delete { old })
        }
        (3 | 4, Some(row)) => {
            let to = choices.key();
            if rows.contains_key(&to) {
                return None;
            }
            rows.remove(&key);
            rows.insert(to, row);
            let old = Some(OldTuple::Key(vec![int(key), Datum::Null, Datum::Null]));
            let unchanged = row.0.map_or(Datum::Null, |_| Datum::Unchanged);
            let new = vec![int(to), unchanged, int(row.1)];
            change(RowImage::Update { old, new })
        }
        (5 | 6, Some(row)) => {
            rows.insert(key, (row.0, number));
            let unchanged = row.0.map_or(Datum::Null, |_| Datum::Unchanged);
            let new = vec![int(key), unchanged, int(number)];
            change(RowImage::Update { old: None, new })
        }
        (_, Some(_)) => {
            let row = (choices.vector(), number);
            rows.insert(key, row);
            let new = tuple(key, row);
            change(RowImage::Update { old: None, new })
        }
        (_, None) => {
            let row = (choices.vector(), number);
            rows.insert(key, row);
            let new = tuple(key, row);
            change(RowImage::Insert { new })
        }
    }
}

/// A history of the table, every transaction 10 bytes of WAL after the one before.
pub(super) fn history(choices: &mut Choices, table: &Arc<Relation>) -> Vec<Committed> {
    let mut rows = Rows::new();
    let mut history = Vec::new();
    for number in 1..=u64::from(4 + choices.below(20)) {
        let commit_lsn = Lsn::new(number * 10);
        // Some take more than is kept for a writer that joins.
        let length = if choices.below(4) == 0 {
            12
        } else {
            choices.below(4)
        };
        let mut events = Vec::new();
        for _ in 0..length {
            events.extend(statement(choices, &mut rows, commit_lsn, table));
        }
        history.push(Committed {
            commit_lsn,
            end_lsn: Lsn::new(number * 10 + 5),
            events,
            after: rows.clone(),
        });
    }
    history
}

/// The table at a position.
pub(super) fn rows_at(history: &[Committed], position: Lsn) -> Rows {
    let before = history.iter().take_while(|t| t.commit_lsn < position);
    before.last().map(|t| t.after.clone()).unwrap_or_default()
}
