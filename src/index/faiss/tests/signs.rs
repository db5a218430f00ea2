//! Distances sifted by signs against those of all rows: who is left out, and who may be.

use super::*;
use crate::index::faiss::codes::Codes;
use crate::index::faiss::vectors::Vectors;

/// Rows are as many as are sifted at once.
const ROWS: usize = 256;
/// What walks use; `kSignsWalked` in `distance.h`.
const DEVIATIONS: f32 = 1.5;

/// Sets of rows and a query near some of them.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// Normal, around points some distance apart.
    Clusters,
    /// One component is a hundred times the others.
    Massive,
    /// Two components in a hundred are not zero.
    Sparse,
    /// Of lengths between a thousandth and a thousand.
    Lengths,
    /// All within a thousandth of one point.
    Copies,
}

/// About normal, with a deviation of one.
fn normal(state: &mut u64) -> f32 {
    let halves: f64 = (0..12).map(|_| f64::from(half(state))).sum();
    #[allow(clippy::cast_possible_truncation)] // rounds
    let sum = (halves / 4_294_967_296.0) as f32;
    sum - 6.0
}

impl Shape {
    const ALL: [Self; 5] = [
        Self::Clusters,
        Self::Massive,
        Self::Sparse,
        Self::Lengths,
        Self::Copies,
    ];

    fn vectors(self, dim: usize, count: usize, state: &mut u64) -> Vec<Vec<f32>> {
        let middles: Vec<Vec<f32>> = (0..8)
            .map(|_| (0..dim).map(|_| normal(state)).collect())
            .collect();
        let row = |i: usize| {
            let middle = &middles[i % middles.len()];
            let length = 10_f32.powf(normal(state).clamp(-3.0, 3.0));
            let component = |j: usize| match self {
                Self::Clusters => middle[j] + 0.7 * normal(state),
                Self::Massive if j == 5 => 100.0 * (middle[j] + normal(state)),
                Self::Massive => middle[j] + normal(state),
                Self::Sparse if half(state).is_multiple_of(50) => middle[j] + normal(state),
                Self::Sparse => 0.0,
                Self::Lengths => length * (middle[j] + normal(state)),
                Self::Copies => middles[0][j] + 1e-3 * normal(state),
            };
            (0..dim).map(component).collect()
        };
        (0..count).map(row).collect()
    }
}

/// The codes of `ROWS` rows.
fn codes(dim: usize, metric: Metric, rows: &[Vec<f32>]) -> Codes {
    let spec = spec(dim, metric, Method::Hnsw);
    let mut mean = vec![0.0; dim];
    for row in rows {
        for (sum, x) in mean.iter_mut().zip(row) {
            *sum += x / rows.len() as f32;
        }
    }
    if metric == Metric::Cosine {
        mean.fill(0.0); // not of unit length; any will do
    }
    let codes = Codes::new(&spec, Some(mean.into()), &Vectors::new(&spec, &account()));
    for (row, vector) in (0..).zip(rows) {
        // SAFETY: nobody else has the codes.
        unsafe { codes.encode(row, vector) }.unwrap();
    }
    codes
}

/// The places and distances of rows that may be within `reach`: of all, or as rows that follow each other of so many.
fn within(
    kernel: u32,
    codes: &Codes,
    query: &[f32],
    reach: f32,
    swept: Option<usize>,
) -> Vec<(usize, f32)> {
    let rows: Vec<u32> = (0..).take(swept.unwrap_or(ROWS)).collect();
    let raw = codes.raw();
    let (mut which, mut found) = ([0; ROWS], [0.0; ROWS]);
    // SAFETY: the rows have codes, the query their dimensions, the others room for all; this processor has the kernel.
    let count = unsafe {
        ffi::rektor_within(
            kernel,
            &raw const raw,
            query.as_ptr(),
            rows.as_ptr(),
            rows.len(),
            reach,
            DEVIATIONS,
            swept.is_some(),
            which.as_mut_ptr(),
            found.as_mut_ptr(),
        )
    };
    let places = which.iter().map(|place| *place as usize);
    places.zip(found).take(count).collect()
}

/// The distances of all rows, and the one that so many of them are nearer than.
fn distances(codes: &Codes, query: &[f32], nearer: usize) -> (Vec<f32>, f32) {
    let all = within(0, codes, query, f32::INFINITY, None);
    let all: Vec<f32> = all.into_iter().map(|(_, distance)| distance).collect();
    assert_eq!(all.len(), ROWS);
    let mut sorted = all.clone();
    sorted.sort_by(f32::total_cmp);
    (all, sorted[nearer])
}

/// Of the rows nearer than the reach hardly any is left out, whatever the rows look like; those that are not have the same
/// distance; and by every kernel they are the same.
#[test]
fn rows_within_reach_pass_by_every_kernel() {
    let mut state = 11;
    for shape in Shape::ALL {
        for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
            let (mut near, mut lost) = (0, 0);
            for dim in [128, 200, 384, 768, 1_100] {
                let vectors = shape.vectors(dim, ROWS + 8, &mut state);
                let (rows, queries) = vectors.split_at(ROWS);
                let codes = codes(dim, metric, rows);
                for query in queries {
                    let (all, reach) = distances(&codes, query, ROWS / 8);
                    let passed = within(0, &codes, query, reach, None);
                    for (place, distance) in &passed {
                        assert_eq!(*distance, all[*place], "{shape:?} {metric:?} {dim}");
                    }
                    for kernel in kernels_here() {
                        let same = within(kernel, &codes, query, reach, None);
                        assert_eq!(same, passed, "{shape:?} {metric:?} {dim} by {kernel}");
                        for rows in [1, 30, 111, ROWS] {
                            let swept = within(kernel, &codes, query, reach, Some(rows));
                            let expected = passed.iter().filter(|(place, _)| *place < rows);
                            assert!(
                                swept.iter().eq(expected),
                                "{shape:?} {metric:?} {dim} by {kernel}: the first {rows}"
                            );
                        }
                    }
                    let wanted = all.iter().filter(|distance| **distance < reach).count();
                    let given = passed.iter().filter(|(_, distance)| *distance < reach);
                    near += wanted;
                    lost += wanted - given.count();
                }
            }
            // One and a half deviations to one side are 6.7 % at the reach itself, and less before it.
            assert!(
                lost * 20 < near,
                "{shape:?} {metric:?}: {lost} of {near} lost"
            );
        }
    }
}

/// Signs leave out most of what is far: where rows are a few groups, all but a few of the others.
#[test]
fn most_far_rows_are_left_out() {
    let mut state = 13;
    for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
        let vectors = Shape::Clusters.vectors(384, ROWS + 8, &mut state);
        let (rows, queries) = vectors.split_at(ROWS);
        let codes = codes(384, metric, rows);
        for query in queries {
            let (_, reach) = distances(&codes, query, 10);
            let passed = within(0, &codes, query, reach, None).len();
            assert!((10..ROWS / 3).contains(&passed), "{metric:?}: {passed}");
        }
    }
}

/// L1 has no signs, nor have short vectors.
#[test]
fn without_signs_all_pass() {
    let mut state = 17;
    for (dim, metric) in [(384, Metric::L1), (64, Metric::L2)] {
        let vectors = Shape::Clusters.vectors(dim, ROWS + 1, &mut state);
        let (rows, queries) = vectors.split_at(ROWS);
        let codes = codes(dim, metric, rows);
        assert_eq!(within(0, &codes, &queries[0], 0.0, None).len(), ROWS);
    }
}
