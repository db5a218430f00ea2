//! A definition in the catalogue → what the engine needs of it; two readings of the catalogue → what the newer one means for
//! an index. Never calls the same what may have other rows.

use std::sync::Arc;

use crate::catalog::{FilterKind, IncludeColumn, IndexDefinition, KeyColumn, VectorColumn};
use crate::index::IndexSpec;
use crate::upstream::catalogue::{IndexEntry, Partition};

/// What the engine needs of a definition.
pub(crate) fn spec(definition: &IndexDefinition) -> IndexSpec {
    IndexSpec {
        dim: definition.dim,
        metric: definition.metric,
        options: definition.options,
        include: definition.include.len(),
    }
}

/// Which INCLUDE columns searches can be filtered on, and how.
pub(crate) fn kinds(definition: &IndexDefinition) -> impl Iterator<Item = Option<FilterKind>> {
    definition.include.iter().map(FilterKind::of)
}

/// What a new reading of the catalogue means for an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    Same,
    /// Only names.
    Renamed,
    /// Another index is wanted; the old one is still right.
    Rebuild,
    /// Rows may have changed in a way that the stream does not tell.
    Doubtful,
}

/// How two readings of the catalogue differ.
pub(crate) fn difference(old: &IndexEntry, new: &IndexEntry) -> Difference {
    let (a, b) = (&old.definition, &new.definition);
    if old == new {
        Difference::Same
    } else if (&old.stamp, &old.unusable, &old.row_filter)
        != (&new.stamp, &new.unusable, &new.row_filter)
        || (old.written != new.written && old.file != new.file)
        || a.relation != b.relation
        || !same_columns(a, b)
        || partitions_moved(&old.partitions, &new.partitions)
    {
        Difference::Doubtful
    } else if (a.expression, a.dim, a.metric, a.options, old.reindexed)
        != (b.expression, b.dim, b.metric, b.options, new.reindexed)
        || !same_include(a, b)
    {
        Difference::Rebuild
    } else {
        Difference::Renamed
    }
}

/// Whether key and vector are the same columns, whatever they are called.
fn same_columns(a: &IndexDefinition, b: &IndexDefinition) -> bool {
    let key = |column: &KeyColumn| (column.number, column.kind);
    let vector = |column: &VectorColumn| (column.number, column.kind, column.type_id);
    a.key.iter().map(key).eq(b.key.iter().map(key)) && vector(&a.column) == vector(&b.column)
}

fn same_include(a: &IndexDefinition, b: &IndexDefinition) -> bool {
    let include = |column: &IncludeColumn| (column.number, column.type_id, column.deterministic);
    a.include
        .iter()
        .map(include)
        .eq(b.include.iter().map(include))
}

/// Whether partitions have brought or taken rows: one is gone, has another file, or was attached.
fn partitions_moved(old: &[Partition], new: &[Partition]) -> bool {
    let is_in =
        |partition: &Partition, all: &[Partition]| all.iter().any(|other| other.is_same(partition));
    old.iter().any(|partition| !is_in(partition, new))
        || new
            .iter()
            .any(|partition| partition.attached && !is_in(partition, old))
}

/// Takes over the names of a newer reading of the catalogue.
pub(super) fn rename(own: &mut IndexEntry, newer: &IndexEntry) {
    let names = &newer.definition;
    // An index that waits to be made anew has other INCLUDE columns: its own names stay until then.
    let of_columns = own.definition.renamed(|n| newer.shape.name(n));
    let mut definition = of_columns.unwrap_or_else(|| (*own.definition).clone());
    definition.name = names.name.clone();
    definition.table = names.table.clone();
    own.definition = Arc::new(definition);
    own.written.clone_from(&newer.written);
    own.file = newer.file;
    own.shape = newer.shape.clone();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::RelationId;

    #[test]
    fn partitions_have_moved_when_rows_may_have_come_or_gone() {
        let partition = |relation, file, linked, attached| Partition {
            relation: RelationId(relation),
            file,
            linked,
            attached,
        };
        let old = [partition(1, 10, 700, false), partition(2, 20, 701, true)];
        let check = |new: &[Partition], moved| assert_eq!(partitions_moved(&old, new), moved);
        check(&old, false);
        // After a crash of the server it looks as if the first had been attached.
        check(&[partition(1, 10, 700, true), old[1]], false);
        check(&[old[0], old[1], partition(3, 30, 702, false)], false);
        check(&[old[0], old[1], partition(3, 30, 702, true)], true);
        check(&[old[0]], true);
        check(&[old[0], partition(2, 21, 701, true)], true);
        check(&[old[0], partition(2, 20, 703, true)], true);
    }
}
