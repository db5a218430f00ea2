//! The pages of a table and its partitions → ranges that several sessions read, each by one COPY statement. Pure.

use super::TableCopy;
use crate::catalog::quoted_identifier;

/// A table smaller than this is read by one session: 8 MiB.
const SMALL_BLOCKS: i64 = 1024;
/// Least pages of a range, so that starting a copy does not dominate.
const LEAST_RANGE: i64 = 128;
/// Ranges for each session, so that all end at about the same time.
const RANGES_PER_SESSION: i64 = 16;

/// A table, or one of its partitions.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) path: String,
    pub(super) partitioned: bool,
    pub(super) blocks: i64,
    pub(super) rows: f64,
    /// Of them, those without a NULL.
    pub(super) complete_rows: f64,
    pub(super) may_select: bool,
    pub(super) moved: bool,
}

/// Pages of a table or partition, read by one statement.
#[derive(Debug, PartialEq)]
pub(super) struct Piece {
    /// What to select from.
    pub(super) from: String,
    /// First page, and the one after the last; a table may grow while it is read, so the last range has no end.
    pub(super) pages: Option<(i64, Option<i64>)>,
    pub(super) blocks: u64,
    pub(super) rows: f64,
}

pub(super) fn divide(parts: &[Part], sessions: usize) -> Vec<Piece> {
    let total: i64 = parts.iter().map(|part| part.blocks).sum();
    let blocks = |count: i64| u64::try_from(count).unwrap_or(0);
    // Reading through the root asks for rights on the root alone, but cannot be divided.
    if let Some(root) = parts.iter().find(|part| part.partitioned)
        && parts.iter().any(|part| !part.may_select)
    {
        return vec![Piece {
            from: root.path.clone(),
            pages: None,
            blocks: blocks(total),
            rows: parts.iter().map(|part| part.rows).sum(),
        }];
    }
    let ranges = i64::try_from(sessions).unwrap_or(1).max(1) * RANGES_PER_SESSION;
    let length = (total / ranges).max(LEAST_RANGE);
    let mut pieces = Vec::new();
    for part in parts.iter().filter(|part| !part.partitioned) {
        let from = format!("only {}", part.path);
        if sessions < 2 || total < SMALL_BLOCKS {
            pieces.push(Piece {
                from,
                pages: None,
                blocks: blocks(part.blocks),
                rows: part.rows,
            });
            continue;
        }
        let count = (part.blocks / length).max(1);
        for number in 0..count {
            let end = (number + 1 < count).then_some((number + 1) * length);
            #[allow(clippy::cast_precision_loss)] // a handful of ranges
            pieces.push(Piece {
                from: from.clone(),
                pages: Some((number * length, end)),
                blocks: blocks(end.unwrap_or(part.blocks) - number * length),
                rows: part.rows / count as f64,
            });
        }
    }
    pieces
}

/// The statement differs from table to table, so it is no file of `sql/`.
pub(super) fn copy_statement(table: &TableCopy, piece: &Piece) -> String {
    let columns: Vec<String> = table
        .columns
        .iter()
        .map(|name| quoted_identifier(name))
        .collect();
    let mut conditions: Vec<String> = Vec::new();
    conditions.extend(
        table
            .row_filter
            .as_ref()
            .map(|filter| format!("({filter})")),
    );
    if let Some((first, end)) = piece.pages {
        conditions.push(format!("ctid >= '({first},0)'::tid"));
        conditions.extend(end.map(|end| format!("ctid < '({end},0)'::tid")));
    }
    let condition = if conditions.is_empty() {
        String::new()
    } else {
        format!(" where {}", conditions.join(" and "))
    };
    format!(
        "copy (select {} from {}{condition}) to stdout (format binary)",
        columns.join(", "),
        piece.from
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{QualifiedName, RelationId};

    fn part(path: &str, blocks: i64) -> Part {
        Part {
            path: path.into(),
            partitioned: false,
            blocks,
            rows: 100.0,
            complete_rows: 100.0,
            may_select: true,
            moved: false,
        }
    }

    #[test]
    fn ranges_cover_every_page_once() {
        for (sizes, sessions) in [
            (vec![0], 2),
            (vec![1023], 2),
            (vec![1024], 2),
            (vec![100_001], 3),
            (vec![5_000, 0, 70], 2),
            (vec![5_000], 1),
        ] {
            let parts: Vec<Part> = sizes
                .iter()
                .map(|size| part(&format!("p{size}"), *size))
                .collect();
            let pieces = divide(&parts, sessions);
            for (part, size) in parts.iter().zip(&sizes) {
                let from = format!("only {}", part.path);
                let own: Vec<&Piece> = pieces.iter().filter(|piece| piece.from == from).collect();
                let blocks: u64 = own.iter().map(|piece| piece.blocks).sum();
                assert_eq!(i64::try_from(blocks), Ok(*size));
                if let [only] = own.as_slice()
                    && only.pages.is_none()
                {
                    continue;
                }
                let mut next = Some(0);
                for piece in own {
                    let (first, end) = piece.pages.unwrap();
                    assert_eq!(Some(first), next, "no gap and no overlap");
                    next = end;
                }
                assert_eq!(next, None, "the last range has no end");
            }
        }
    }

    #[test]
    fn without_rights_on_a_partition_the_root_is_read() {
        let mut root = part("public.t", 0);
        root.partitioned = true;
        let mut leaf = part("public.t1", 9_000);
        leaf.may_select = false;
        let pieces = divide(&[root, leaf], 4);
        assert_eq!(pieces.len(), 1);
        assert_eq!(
            (pieces[0].from.as_str(), pieces[0].blocks),
            ("public.t", 9_000)
        );
    }

    #[test]
    fn the_statement_quotes_and_filters() {
        let table = TableCopy {
            relation: RelationId(1),
            name: QualifiedName {
                schema: "public".into(),
                name: "t".into(),
            },
            columns: vec!["id".into(), "a\"b".into()],
            numbers: Vec::new(),
            row_filter: Some("x > 1 or y".into()),
        };
        let piece = Piece {
            from: "only public.t".into(),
            pages: Some((128, Some(256))),
            blocks: 128,
            rows: 0.0,
        };
        assert_eq!(
            copy_statement(&table, &piece),
            "copy (select \"id\", \"a\"\"b\" from only public.t where (x > 1 or y) and ctid >= '(128,0)'::tid \
             and ctid < '(256,0)'::tid) to stdout (format binary)"
        );
    }
}
