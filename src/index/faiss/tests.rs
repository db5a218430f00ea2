//! The shim's kernels and codes against plain Rust, and the ids of rows.

pub(in crate::index) mod disk;
mod layout;
mod signs;

use std::sync::Arc;

use super::*;
use crate::catalog::{IndexOptions, Method};
use crate::index::memory::Account;
use crate::index::{IndexSpec, Memory};
use crate::vector::{Dim, Metric, Vector};

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// The upper half of a random number.
fn half(state: &mut u64) -> u32 {
    u32::try_from(random(state) >> 32).unwrap()
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
    let kernels = kernels_here();
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

/// The kernels that this processor has.
fn kernels_here() -> Vec<u32> {
    // SAFETY: no arguments.
    let best = unsafe { ffi::rektor_best_kernel() };
    let here = [
        (0, true),
        (1, std::is_x86_feature_detected!("avxvnni")),
        (2, best == 2),
    ];
    let kernels: Vec<u32> = here
        .into_iter()
        .filter_map(|(kernel, here)| here.then_some(kernel))
        .collect();
    assert!(kernels.contains(&best));
    kernels
}

#[test]
fn l1_kernels_equal_plain_arithmetic() {
    let mut state = 3;
    for stride in (64..=640).step_by(64) {
        for round in 0..20 {
            let code: Vec<u8> = (0..stride)
                .map(|_| random(&mut state).to_le_bytes()[0])
                .collect();
            let query: Vec<f32> = (0..stride)
                .map(|_| (random(&mut state) % 2_001) as f32 / 10.0 - 100.0)
                .collect();
            let scale = [0.0, 0.7, 3.0][round % 3];
            let expected: f64 = code
                .iter()
                .zip(&query)
                .map(|(c, q)| (f64::from(*q) - f64::from(scale) * (f64::from(*c) - 128.0)).abs())
                .sum();
            for kernel in kernels_here() {
                // SAFETY: both have `stride` components, a multiple of 64, and this processor has the kernel.
                let found = unsafe {
                    ffi::rektor_manhattan(kernel, code.as_ptr(), query.as_ptr(), scale, stride)
                };
                let wrong = (f64::from(found) - expected).abs();
                assert!(
                    wrong <= 1e-5 * expected,
                    "kernel {kernel}, {stride}: {found}, not {expected}"
                );
            }
        }
    }
}

#[test]
#[allow(clippy::cast_possible_truncation)] // random words
fn bit_kernels_equal_plain_arithmetic() {
    // SAFETY: no arguments.
    let best = unsafe { ffi::rektor_best_bit_kernel() };
    let mut state = 5;
    for words in (1..=70).chain([2_000]) {
        for round in 0..6_u32 {
            // all set, none set, sparse, anything
            let mut string = || -> Vec<f32> {
                let mut word = || match round {
                    0 => u32::MAX,
                    1 => 0,
                    2 => 1 << (random(&mut state) % 32),
                    _ => half(&mut state),
                };
                (0..words).map(|_| f32::from_bits(word())).collect()
            };
            let (a, b) = (string(), string());
            for metric in Metric::OF_BITS {
                let expected = metric.distance(&a, &b);
                for kernel in 0..=best {
                    // SAFETY: both have so many bytes, and this processor has the kernel.
                    let found = unsafe {
                        ffi::rektor_bits(
                            kernel,
                            codes::raw_metric(metric),
                            a.as_ptr().cast(),
                            b.as_ptr().cast(),
                            words * 4,
                        )
                    };
                    let wrong = (f64::from(found) - expected).abs();
                    assert!(
                        wrong <= 1e-7,
                        "{metric:?}, kernel {kernel}, {words} words: {found}, not {expected}"
                    );
                }
            }
        }
    }
}

#[test]
#[allow(clippy::cast_possible_truncation)] // random words
fn searches_of_bits_equal_scans_in_every_length() {
    let mut state = 11;
    for dim in (1..=300).chain([1_536, 64_000]) {
        for metric in Metric::OF_BITS {
            let spec = spec(dim, metric, Method::Hnsw);
            let mut bits = || {
                let words = (0..spec.form().words()).map(|_| f32::from_bits(half(&mut state)));
                Vector::from_words(spec.form(), words.collect()).unwrap()
            };
            let mut rows = Rows::new(spec, &account());
            for _ in 0..12 {
                rows.insert(bits().as_slice()).unwrap();
            }
            rows.remove(3);
            let view = rows.publish(None);
            let query = bits();
            let (scanned, _) = view.scan(query.as_slice(), 4).unwrap();
            let (searched, _) = view.search(query.as_slice(), 4, 12).unwrap();
            // Of rows at the same distance any may come.
            let distances = |rows: &[(u32, f32)]| rows.iter().map(|row| row.1).collect::<Vec<_>>();
            assert_eq!(
                distances(&searched),
                distances(&scanned),
                "{dim} bits, {metric:?}"
            );
            for (row, distance) in scanned.into_iter().chain(searched) {
                let expected = metric.distance(query.as_slice(), &view.vector(row).unwrap());
                assert!(
                    (f64::from(distance) - expected).abs() < 1e-7,
                    "{dim}: {distance}, not {expected}"
                );
            }
        }
    }
}

/// For every dimension: the nearest by codes and then by vectors is the nearest, with its true distance.
#[test]
fn searches_by_codes_equal_scans_in_every_dimension() {
    let mut state = 7;
    for dim in (1..=600).chain([1_536, 4_096, 16_000]) {
        for metric in Metric::OF_NUMBERS {
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
                let expected = metric.distance(&query, &vector);
                // rounding of a sum of products, relative to the sizes that are summed
                let sizes: f32 = query.iter().zip(&*vector).map(|(q, x)| (q * x).abs()).sum();
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
    assert_eq!(old.vector(first).as_deref(), Some(&[1.0][..]));
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
