//! A graph while it is searched and linked into → bytes, and bytes → a graph that walks may trust.
//! Never takes a link, a level or a twin from bytes without having checked where it leads.
//!
//! The bytes, all little-endian: magic, m and metric, dimensions, nodes, entry, number of dead nodes and of those whose codes
//! lie in the nodes' order (the first); the mean (of bits none); of each node
//! its row, its levels, 1 + its next twin; all link lists; code and scales of each dead node; the curve of its recall: nodes
//! when it was measured, points of its two parts (0 without a curve), effort and share missed of each in 64 bits. Live rows are
//! stored elsewhere, and their codes follow from them and the mean.

use std::io::{self, Write};
use std::sync::Arc;

use super::codes::{self, SCALES};
use super::graph::{Graph, Shape};
use super::lineage::Lineage;
use super::store::MAX_ROWS;
use super::view::RowView;
use crate::index::dial::Curve;
use crate::index::pages::Bitmap;
use crate::index::{IndexError, IndexSpec};
use crate::vector::Form;

const MAGIC: [u8; 8] = *b"RKTGRPH\x03";
/// Nodes whose links are handed to the file at a time.
const BATCH: usize = 4096;

/// A view's graph, to be stored.
#[derive(Debug)]
pub struct GraphSource<'v> {
    view: &'v RowView,
    lineage: &'v Lineage,
    graph: Arc<Graph>,
    shape: Shape,
    nodes: u32,
    entry: u32,
}

impl RowView {
    /// The graph, when there is one and all it needs is in this view.
    pub(in crate::index) fn graph_source(&self) -> Option<GraphSource<'_>> {
        let lineage = self.lineage()?;
        let graph = lineage.graph()?;
        let nodes = graph.linked().min(self.nodes());
        // An entry that came after this view: the next generation will have one.
        let entry = graph.entry().filter(|entry| *entry < nodes)?;
        lineage.codes.centred().then(|| GraphSource {
            view: self,
            lineage,
            shape: Shape {
                m: self.spec().options.m,
                metric: self.spec().metric,
            },
            graph,
            nodes,
            entry,
        })
    }
}

impl GraphSource<'_> {
    /// Nodes that are linked.
    #[must_use]
    pub fn nodes(&self) -> u32 {
        self.nodes
    }

    /// About how many bytes it will be.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        // Nearly all nodes have one level.
        let node = size_of::<u32>() * (self.shape.slots(1) + 2);
        u64::from(self.nodes) * node as u64
    }

    /// Writes the graph.
    ///
    /// # Errors
    /// When `out` fails.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let rows = || (0..self.nodes).map(|node| self.lineage.row(node));
        let dead = || rows().filter(|row| !self.view.live().contains(*row));
        let codes = &self.lineage.codes;
        let number = |length: usize| u32::try_from(length).map_err(io::Error::other);
        out.write_all(&MAGIC)?;
        for field in [
            u32::from(self.shape.m),
            codes::raw_metric(self.shape.metric),
            number(self.view.spec().dim.get())?,
            self.nodes,
            self.entry,
            number(dead().count())?,
            self.lineage.in_order().min(self.nodes),
        ] {
            out.write_all(&field.to_le_bytes())?;
        }
        write_all(out, codes.mean().iter().map(|x| x.to_le_bytes()))?;
        write_all(out, rows().map(u32::to_le_bytes))?;
        let nodes = || (0..self.nodes).map(|node| self.graph.node(node, self.nodes));
        for (levels, _) in nodes() {
            let levels = u8::try_from(levels).map_err(io::Error::other)?;
            out.write_all(&[levels])?;
        }
        write_all(out, nodes().map(|(_, twin)| twin.to_le_bytes()))?;
        let mut slots = Vec::new();
        for node in 0..self.nodes {
            let links = self.graph.links(self.shape, node, self.nodes, &mut slots);
            write_all(out, links.iter().map(|slot| slot.to_le_bytes()))?;
        }
        for row in dead() {
            // SAFETY: a row that a node of this view's lineage names keeps its code while the view is held.
            let (code, scales) = unsafe { codes.get(row) };
            out.write_all(code)?;
            write_all(out, scales.iter().map(|x| x.to_le_bytes()))?;
        }
        let curve = self.view.dial().curve();
        let curve = curve.as_deref();
        out.write_all(&curve.map_or(0, |curve| curve.linked).to_le_bytes())?;
        let none = [Vec::new(), Vec::new()];
        let parts = curve.map_or(&none, Curve::points);
        for part in parts {
            out.write_all(&number(part.len())?.to_le_bytes())?;
        }
        for (effort, miss) in parts.iter().flatten() {
            out.write_all(&effort.to_le_bytes())?;
            out.write_all(&miss.to_le_bytes())?;
        }
        Ok(())
    }
}

/// Writes small pieces in larger ones.
fn write_all<const N: usize>(
    out: &mut dyn Write,
    pieces: impl Iterator<Item = [u8; N]>,
) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(BATCH * N);
    for piece in pieces {
        buffer.extend_from_slice(&piece);
        if buffer.len() >= BATCH * N {
            out.write_all(&buffer)?;
            buffer.clear();
        }
    }
    out.write_all(&buffer)
}

/// A dead row that a node names, its code and its scales.
type DeadRow<'a> = (u32, &'a [u8], &'a [f32]);

/// A stored graph, checked: every link leads to a node that has that level, and no chain of twins to itself.
#[derive(Clone, Debug, PartialEq)]
pub struct GraphImage {
    pub(super) shape: Shape,
    pub(super) mean: Box<[f32]>,
    /// The row of each node, each once.
    pub(super) rows: Vec<u32>,
    pub(super) levels: Vec<u8>,
    pub(super) twins: Vec<u32>,
    pub(super) slots: Vec<i32>,
    pub(super) entry: u32,
    /// The codes of so many first nodes lie in the nodes' order.
    pub(super) laid_out: u32,
    dead: usize,
    /// Codes of dead rows, in the order of their nodes, and their scales.
    codes: Vec<u8>,
    scales: Vec<f32>,
    pub(super) curve: Option<Curve>,
}

impl GraphImage {
    /// Reads a graph.
    ///
    /// # Errors
    /// When it is not one, or not of an index like this.
    pub fn read(bytes: &[u8], spec: &IndexSpec) -> Result<Self, IndexError> {
        let image = Self::parse(bytes, spec);
        image.map_err(|what| IndexError::Engine(format!("the stored graph: {what}")))
    }

    fn parse(bytes: &[u8], spec: &IndexSpec) -> Result<Self, &'static str> {
        const SHORT: &str = "too short";
        let mut rest = Bytes(bytes);
        if rest.take(MAGIC.len()).ok_or(SHORT)? != MAGIC {
            return Err("not a graph");
        }
        let header = rest.u32s(7).ok_or(SHORT)?;
        let [m, metric, dim, nodes, entry, dead, laid_out] = header[..] else {
            return Err(SHORT);
        };
        let shape = Shape {
            m: spec.options.m,
            metric: spec.metric,
        };
        if m != u32::from(shape.m)
            || metric != codes::raw_metric(shape.metric)
            || dim as usize != spec.dim.get()
        {
            return Err("of another kind of index");
        }
        let (count, dead) = (nodes as usize, dead as usize);
        if count > MAX_ROWS / 2 || entry >= nodes || dead > count || laid_out > nodes {
            return Err("impossible numbers");
        }
        if laid_out > 0 && matches!(spec.form(), Form::Bits(_)) {
            return Err("bits that do not lie as they came");
        }
        let mean = rest
            .f32s(codes::mean_length(spec.form()))
            .ok_or(SHORT)?
            .into();
        let rows = rest.u32s(count).ok_or(SHORT)?;
        let levels = rest.take(count).ok_or(SHORT)?.to_vec();
        let twins = rest.u32s(count).ok_or(SHORT)?;
        let total = levels.iter().map(|levels| shape.slots(u32::from(*levels)));
        let slots = rest.u32s(total.sum()).ok_or(SHORT)?;
        let slots = slots.into_iter().map(u32::cast_signed).collect();
        let stride = codes::stride(spec.form());
        let (mut dead_codes, mut scales) = (Vec::new(), Vec::new());
        for _ in 0..dead {
            dead_codes.extend_from_slice(rest.take(stride).ok_or(SHORT)?);
            scales.extend(rest.f32s(SCALES).ok_or(SHORT)?);
        }
        let curve = rest.curve().ok_or(SHORT)?;
        if !rest.0.is_empty() {
            return Err("too long");
        }
        let image = Self {
            shape,
            mean,
            rows,
            levels,
            twins,
            slots,
            entry,
            laid_out,
            dead,
            codes: dead_codes,
            scales,
            curve,
        };
        image.check()?;
        Ok(image)
    }

    /// Nodes.
    #[must_use]
    pub fn nodes(&self) -> u32 {
        u32::try_from(self.rows.len()).unwrap_or(u32::MAX) // it was read from one
    }

    /// The rows of the nodes whose codes lie in the nodes' order.
    pub(super) fn laid_out(&self) -> &[u32] {
        self.rows.get(..self.laid_out as usize).unwrap_or_default()
    }

    /// Linked nodes, but for twins, to which no lists of the lowest level lead from the entry.
    #[cfg(test)]
    pub(in crate::index) fn unreached(&self) -> usize {
        let width = 2 * usize::from(self.shape.m);
        let mut start = 0;
        let mut lists = Vec::new();
        for levels in &self.levels {
            lists.push(&self.slots[start..start + width]);
            start += self.shape.slots(u32::from(*levels));
        }
        // Of a node without lists all slots are 0.
        let linked = lists.iter().map(|list| list.iter().any(|to| *to != 0));
        let mut missing: Vec<bool> = linked.collect();
        let mut next = vec![self.entry as usize];
        while let Some(node) = next.pop() {
            if std::mem::take(&mut missing[node]) {
                let links = lists[node].iter();
                next.extend(links.filter_map(|to| usize::try_from(*to).ok()));
            }
        }
        missing.iter().filter(|missing| **missing).count()
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.mean.iter().any(|x| !x.is_finite()) {
            return Err("a mean that is no vector");
        }
        let mut seen = Bitmap::default();
        for row in &self.rows {
            if *row as usize >= MAX_ROWS || !seen.insert(*row) {
                return Err("a row that cannot be, or of two nodes");
            }
        }
        let mut lists = &self.slots[..];
        for levels in &self.levels {
            if *levels == 0 {
                return Err("a node without a level");
            }
            let (mut own, rest) = lists.split_at(self.shape.slots(u32::from(*levels)));
            lists = rest;
            for level in 0..*levels {
                let width = usize::from(self.shape.m) * if level == 0 { 2 } else { 1 };
                let (list, above) = own.split_at(width);
                own = above;
                let leads = |to: &i32| match usize::try_from(*to) {
                    Ok(to) => self.levels.get(to).is_some_and(|levels| *levels > level),
                    Err(_) => *to == -1,
                };
                if !list.iter().all(leads) {
                    return Err("a link that leads nowhere");
                }
            }
        }
        self.check_twins()
    }

    /// Each node follows at most one other, so a chain that has a beginning has an end; what has none is a circle.
    fn check_twins(&self) -> Result<(), &'static str> {
        let mut followed = vec![false; self.rows.len()];
        for twin in self.twins.iter().filter(|twin| **twin != 0) {
            let before = followed.get_mut(*twin as usize - 1);
            match before {
                Some(before) if !*before => *before = true,
                Some(_) | None => return Err("twins that are not in a row"),
            }
        }
        let mut reached = 0;
        for (first, _) in followed
            .iter()
            .enumerate()
            .filter(|(_, followed)| !**followed)
        {
            let mut next = first + 1;
            while next != 0 {
                reached += 1;
                next = self.twins.get(next - 1).map_or(0, |twin| *twin as usize);
            }
        }
        if reached == self.rows.len() {
            Ok(())
        } else {
            Err("twins in a circle")
        }
    }

    /// The rows that are dead, given which are live, with their codes and scales.
    ///
    /// # Errors
    /// When other rows are dead than when it was stored.
    pub(super) fn dead(&self, live: &Bitmap) -> Result<Vec<DeadRow<'_>>, IndexError> {
        let dead = self.rows.iter().filter(|row| !live.contains(**row));
        let width = self.codes.len() / self.dead.max(1);
        let codes = self.codes.chunks_exact(width.max(1));
        let scales = self.scales.chunks_exact(SCALES);
        if dead.clone().count() != self.dead {
            return Err(IndexError::Engine("the stored graph: of other rows".into()));
        }
        let with_codes = dead.zip(codes).zip(scales);
        Ok(with_codes
            .map(|((row, code), scales)| (*row, code, scales))
            .collect())
    }
}

/// Bytes not read yet.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn words(&mut self, count: usize) -> Option<impl Iterator<Item = [u8; 4]> + use<'a>> {
        let bytes = self.take(count.checked_mul(4)?)?;
        Some(bytes.as_chunks::<4>().0.iter().copied())
    }

    /// A curve of recall, if there is one that can be.
    fn curve(&mut self) -> Option<Option<Curve>> {
        let header = self.u32s(3)?;
        let [linked, few, many] = header[..] else {
            return None;
        };
        let mut part = |count: u32| {
            let numbers = self.take((count as usize).checked_mul(16)?)?;
            let numbers = numbers.as_chunks::<16>().0.iter();
            let half = |pair: &[u8; 16], at: usize| {
                let bytes = pair[at..].first_chunk::<8>();
                bytes.map_or(f64::NAN, |bytes| f64::from_le_bytes(*bytes))
            };
            Some(numbers.map(|pair| (half(pair, 0), half(pair, 8))).collect())
        };
        Some(Curve::from_points([part(few)?, part(many)?], linked))
    }

    fn u32s(&mut self, count: usize) -> Option<Vec<u32>> {
        Some(self.words(count)?.map(u32::from_le_bytes).collect())
    }

    fn f32s(&mut self, count: usize) -> Option<Vec<f32>> {
        Some(self.words(count)?.map(f32::from_le_bytes).collect())
    }
}
