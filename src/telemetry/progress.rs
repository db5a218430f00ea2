//! The published view → one bar an index on the terminal, while its first copy and build run.

use std::collections::HashMap;
use std::sync::Arc;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::sync::watch;

use crate::catalog::IndexId;
use crate::index::view::{Phase, View};

const STYLE: &str = "{prefix} {bar:30} {pos:>3} % {msg}, {eta} left";

/// Shows bars until the view's publisher or the caller ends it.
pub async fn show(
    bars: MultiProgress,
    mut view: watch::Receiver<Arc<View>>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut shown = HashMap::new();
    loop {
        let current = view.borrow_and_update().clone();
        update(&bars, &mut shown, &current);
        tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => break,
            changed = view.changed() => if changed.is_err() { break },
        }
    }
    for bar in shown.values() {
        bar.finish_and_clear();
    }
}

fn update(bars: &MultiProgress, shown: &mut HashMap<IndexId, ProgressBar>, view: &View) {
    for index in &view.indexes {
        let (word, percent) = match index.phase {
            Phase::Copying { percent } => ("copying", percent),
            Phase::Building { percent } => ("building", percent),
            Phase::Ready | Phase::Failed { .. } => continue,
        };
        let bar = shown.entry(index.definition.id).or_insert_with(|| {
            // Dressed before it is added, which draws it.
            let bar = ProgressBar::hidden();
            bar.set_length(100);
            if let Ok(style) = ProgressStyle::with_template(STYLE) {
                bar.set_style(style);
            }
            bar.set_prefix(index.definition.name.to_string());
            bar.set_message(word);
            bars.add(bar)
        });
        bar.set_message(word);
        bar.set_position(whole(percent));
    }
    let runs = |id: &IndexId| {
        view.index(*id).is_some_and(|index| {
            matches!(index.phase, Phase::Copying { .. } | Phase::Building { .. })
        })
    };
    shown.retain(|id, bar| {
        let keep = runs(id);
        if !keep {
            bar.finish_and_clear();
            bars.remove(bar);
        }
        keep
    });
}

/// A percentage as a whole number, 0 to 100.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // clamped
fn whole(percent: f32) -> u64 {
    percent.clamp(0.0, 100.0) as u64
}
