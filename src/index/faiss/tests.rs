//! The shim's kernels and codes against plain Rust, and the ids of rows.

use std::sync::Arc;

use super::*;
use crate::catalog::{IndexOptions, Method};
use crate::index::memory::Account;
use crate::index::{IndexSpec, Memory};
use crate::vector::{Dim, Metric};

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn account() -> Arc<Account> {
    Account::new(Memory::unlimited())
}

fn spec(dim: usize, metric: Metric, method: Method) -> IndexSpec {
    IndexSpec {
        dim: Dim::new(dim).unwrap(),
        metric,
        options: IndexOptions {
            method,
            ..IndexOptions::default()
        },
        include: 0,
    }
}

#[test]
fn kernels_equal_plain_arithmetic() {
    // SAFETY: no arguments.
    let best = unsafe { ffi::rektor_best_kernel() };
    let kernels: Vec<u32> = [
        (0, true),
        (1, std::is_x86_feature_detected!("avxvnni")),
        (2, best == 2),
    ]
    .into_iter()
    .filter_map(|(kernel, here)| here.then_some(kernel))
    .collect();
    assert!(kernels.contains(&best));
    let mut state = 1;
    for stride in (64..=640).step_by(64) {
        for round in 0..20 {
            // the extremes, where sums of pairs saturate, then anything
            let code: Vec<u8> = (0..stride)
                .map(|_| {
                    if round == 0 {
                        255
                    } else {
                        random(&mut state).to_le_bytes()[0]
                    }
                })
                .collect();
            let query: Vec<i8> = (0..stride)
                .map(|_| {
                    if round == 0 {
                        127
                    } else {
                        random(&mut state).to_le_bytes()[0].cast_signed().max(-127)
                    }
                })
                .collect();
            let expected: i32 = code
                .iter()
                .zip(&query)
                .map(|(c, q)| i32::from(*c) * i32::from(*q))
                .sum();
            for kernel in &kernels {
                // SAFETY: both have `stride` bytes, a multiple of 64, and this processor has the kernel.
                let dot =
                    unsafe { ffi::rektor_dot(*kernel, code.as_ptr(), query.as_ptr(), stride) };
                assert_eq!(dot, expected, "kernel {kernel}, {stride} bytes");
            }
        }
    }
}

/// For every dimension: the nearest by codes and then by vectors is the nearest, with its true distance.
#[test]
fn searches_by_codes_equal_scans_in_every_dimension() {
    let mut state = 7;
    for dim in (1..=600).chain([1_536, 4_096, 16_000]) {
        for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
            let mut vector = || -> Vec<f32> {
                (0..dim)
                    .map(|_| (random(&mut state) % 2_001) as f32 / 100.0 - 10.005)
                    .collect()
            };
            let mut rows = Rows::new(spec(dim, metric, Method::Hnsw), &account());
            for _ in 0..12 {
                rows.insert(&vector()).unwrap();
            }
            rows.remove(3);
            let view = rows.publish(None);
            let query = vector();
            let (scanned, _) = view.scan(&query, 4).unwrap();
            let (searched, _) = view.search(&query, 4, 12).unwrap();
            assert_eq!(searched, scanned, "{dim} dimensions, {metric:?}");
            for (row, distance) in scanned {
                let vector = view.vector(row).unwrap();
                let expected = metric.distance(&query, vector);
                // rounding of a sum of products, relative to the sizes that are summed
                let sizes: f32 = query.iter().zip(vector).map(|(q, x)| (q * x).abs()).sum();
                let near = if metric == Metric::InnerProduct {
                    1e-5 * f64::from(sizes)
                } else {
                    1e-5 * expected.max(1.0)
                };
                assert!(
                    (f64::from(distance) - expected).abs() <= near,
                    "{dim}: {distance}, not {expected}"
                );
            }
        }
    }
}

#[test]
fn components_near_the_largest_float_do_no_harm() {
    let mut rows = Rows::new(spec(3, Metric::L2, Method::Hnsw), &account());
    for x in [[f32::MAX, f32::MIN, 0.0], [0.0; 3], [1e30, 1e-30, -1e30]] {
        rows.insert(&x).unwrap();
    }
    let view = rows.publish(None);
    let (found, _) = view.search(&[1.0; 3], 3, 3).unwrap();
    assert_eq!(found.len(), 3);
    assert_eq!(found[0].0, 1);
}

#[test]
fn an_id_comes_back_only_when_no_view_can_name_it() {
    let mut rows = Rows::new(spec(1, Metric::L2, Method::Flat), &account());
    let first = rows.insert(&[1.0]).unwrap();
    let old = rows.publish(None);
    rows.remove(first);
    let new = rows.publish(None);
    assert_ne!(rows.insert(&[2.0]).unwrap(), first, "old names it");
    assert_eq!(old.vector(first), Some(&[1.0][..]));
    assert_eq!(new.vector(first), None);
    drop(old);
    drop(rows.publish(None));
    assert_eq!(rows.insert(&[3.0]).unwrap(), first);
    assert_eq!(new.vector(first), None);
}

#[test]
fn a_row_of_a_lineage_keeps_its_id_until_it_is_rebuilt() {
    let mut rows = Rows::new(spec(1, Metric::L2, Method::Hnsw), &account());
    let first = rows.insert(&[1.0]).unwrap();
    drop(rows.publish(None));
    rows.remove(first);
    let view = rows.publish(None);
    drop(rows.publish(None));
    assert_ne!(rows.insert(&[2.0]).unwrap(), first, "the lineage names it");
    let rebuild = view.rebuild().unwrap();
    drop(rows.publish(rebuild));
    drop(rows.publish(None));
    assert_ne!(
        rows.insert(&[3.0]).unwrap(),
        first,
        "a view of the old lineage names it"
    );
    drop(view);
    drop(rows.publish(None));
    assert_eq!(rows.insert(&[4.0]).unwrap(), first);
}

#[test]
fn chunk_and_page_sizes_are_the_shims() {
    let shim = include_str!("shim.h");
    assert!(shim.contains(&format!("kChunkShift = {};", store::CHUNK_SHIFT)));
    assert!(shim.contains(&format!(
        "kPageShift = {};",
        (crate::index::pages::PAGE_WORDS * 64).ilog2()
    )));
}
