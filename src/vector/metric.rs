//! Metrics: operators and names ↔ how two vectors are compared, and exact distances in double precision.

use serde::{Deserialize, Serialize};

use super::{Dim, Form};

/// How two vectors are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Metric {
    /// Euclidean distance, `<->`.
    L2,
    /// Negative inner product, `<#>`.
    InnerProduct,
    /// Cosine distance, `<=>`.
    Cosine,
    /// Taxicab distance, `<+>`.
    L1,
    /// Bits that differ, `<~>`.
    Hamming,
    /// 1 − bits set in both ÷ bits set in either, `<%>`.
    Jaccard,
}

impl Metric {
    /// Those that compare numbers.
    pub const OF_NUMBERS: [Self; 4] = [Self::L2, Self::InnerProduct, Self::Cosine, Self::L1];
    /// Those that compare bits.
    pub const OF_BITS: [Self; 2] = [Self::Hamming, Self::Jaccard];

    /// Every metric.
    fn all() -> impl Iterator<Item = Self> {
        Self::OF_NUMBERS.into_iter().chain(Self::OF_BITS)
    }

    /// What vectors of so many dimensions are under this metric.
    #[must_use]
    pub const fn form(self, dim: Dim) -> Form {
        match self {
            Self::L2 | Self::InnerProduct | Self::Cosine | Self::L1 => Form::Numbers(dim),
            Self::Hamming | Self::Jaccard => Form::Bits(dim),
        }
    }

    /// The metric that an operator orders by.
    #[must_use]
    pub fn from_operator(operator: &str) -> Option<Self> {
        Self::all().find(|metric| metric.operator() == operator)
    }

    /// The operator that orders by this distance.
    #[must_use]
    pub const fn operator(self) -> &'static str {
        match self {
            Self::L2 => "<->",
            Self::InnerProduct => "<#>",
            Self::Cosine => "<=>",
            Self::L1 => "<+>",
            Self::Hamming => "<~>",
            Self::Jaccard => "<%>",
        }
    }

    /// The name in `rektor.index` and `rektor.stat_indexes`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::L2 => "l2",
            Self::InnerProduct => "ip",
            Self::Cosine => "cosine",
            Self::L1 => "l1",
            Self::Hamming => "hamming",
            Self::Jaccard => "jaccard",
        }
    }

    /// The metric of that [`name`](Self::name).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::all().find(|metric| metric.name() == name)
    }

    /// The distance that the operator returns, computed in double precision. The cosine distance of a zero vector is NaN.
    /// Both slices are words of the metric's [`Form`], and have the same length.
    #[must_use]
    pub fn distance(self, a: &[f32], b: &[f32]) -> f64 {
        let pairs = || a.iter().zip(b).map(|(x, y)| (f64::from(*x), f64::from(*y)));
        let bits = |operation: fn(u32, u32) -> u32| {
            let words = a.iter().zip(b).map(|(x, y)| (x.to_bits(), y.to_bits()));
            words
                .map(|(x, y)| f64::from(operation(x, y).count_ones()))
                .sum::<f64>()
        };
        match self {
            Self::L2 => pairs().map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt(),
            Self::L1 => pairs().map(|(x, y)| (x - y).abs()).sum::<f64>(),
            Self::Hamming => bits(|x, y| x ^ y),
            Self::Jaccard => {
                let both = bits(|x, y| x & y);
                // As pgvector says it: also of two strings without any bit set.
                if both == 0.0 {
                    1.0
                } else {
                    1.0 - both / bits(|x, y| x | y)
                }
            }
            Self::InnerProduct => -pairs().map(|(x, y)| x * y).sum::<f64>(),
            Self::Cosine => {
                let (mut dot, mut aa, mut bb) = (0.0, 0.0, 0.0);
                for (x, y) in pairs() {
                    dot += x * y;
                    aa += x * x;
                    bb += y * y;
                }
                1.0 - (dot / (aa * bb).sqrt()).clamp(-1.0, 1.0)
            }
        }
    }
}
