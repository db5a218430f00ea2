//! Tests of the dial: efforts by curves, corrections by checks, curves of single rows.

use super::*;
use crate::index::samples::{ENOUGH, FIRST, LOOKED_AT};

/// Misses that halve whenever the effort doubles.
fn curve() -> Curve {
    let measured = MEASURED_K.map(|k| {
        let recall = |effort: usize| 1.0 - 2.0 * AIM * (k as f64 / 10.0) / effort as f64;
        Curve::efforts(k)
            .map(|effort| (effort, recall(effort)))
            .collect()
    });
    Curve::new(measured, 5_000)
}

#[test]
fn the_effort_is_where_the_curve_reaches_the_recall() {
    let dial = Dial::default();
    assert_eq!(dial.effort(0.95, 10), DEFAULT_EF, "nothing is known yet");
    assert_eq!(dial.effort(0.95, 100), 150);
    dial.measured(curve());
    let check = |recall, k, expected: usize| {
        let effort = dial.effort(recall, k);
        assert!(effort.abs_diff(expected) <= 1, "{recall} at {k}: {effort}");
    };
    check(0.95, 10, 40);
    check(0.95, 1, 40);
    check(0.90, 10, 20);
    check(0.99, 10, 200);
    check(0.95, 100, 400);
    check(0.95, 200, 800);
    check(0.95, 32, 128);
    check(0.5, 10, 10);
    check(1.0, 10, most(10));
    for (effort, k) in [(40, 10), (100, 10), (400, 100), (128, 32)] {
        let miss = curve().miss(f64::from(effort), k);
        let again = curve().effort(miss, k);
        assert!((again / f64::from(effort) - 1.0).abs() < 0.01, "{again}");
    }
}

#[test]
fn a_curve_that_never_rises_costs_what_is_allowed_and_no_more() {
    let flat = MEASURED_K.map(|k| Curve::efforts(k).map(|effort| (effort, 0.5)).collect());
    let dial = Dial::default();
    dial.measured(Curve::new(flat, 5_000));
    assert_eq!(dial.effort(0.95, 10), most(10));
}

#[test]
fn checks_correct_the_curve_within_bounds_and_a_new_graph_forgets_them() {
    let dial = Dial::default();
    dial.measured(curve());
    assert_eq!(dial.stats().recall_measured, None);
    let question = |effort| Question {
        query: vec![],
        k: 10,
        effort,
    };
    for _ in 0..200 {
        dial.checked(&question(40), 0.1, Duration::ZERO);
    }
    let promised = 2.0 * AIM / 40.0;
    let stats = dial.stats();
    assert!((stats.recall_measured.unwrap() - 0.9).abs() < 0.001);
    assert!(stats.ef > 60 && stats.ef <= 115, "{stats:?}");
    assert!(dial.correction() > 1.5 && dial.correction() <= 0.1 / promised + 0.001);
    for _ in 0..200 {
        dial.checked(&question(40), 0.9, Duration::ZERO);
    }
    assert!(dial.effort(0.95, 10) <= most(10));
    assert!(dial.correction() <= MOST_CORRECTION);
    dial.replaced(None);
    assert_eq!(dial.effort(0.95, 10), 40);
    assert_eq!(dial.curve().unwrap().linked, 0, "measured again soon");
    assert_eq!(dial.stats().recall_measured, None);
}

#[test]
fn single_rows_make_a_curve_and_a_measured_one_or_another_graph_forgets_them() {
    let told = |missed: f64, linked| Sample {
        linked,
        missed: MEASURED_K.map(|k| {
            let shares = Curve::efforts(k).map(|effort| missed / effort as f64);
            shares.collect()
        }),
    };
    let dial = Dial::default();
    let tell = |count: usize, missed, linked| {
        for _ in 0..count {
            dial.gathered(vec![told(missed, linked)], 1, linked, Duration::ZERO);
        }
    };
    let nodes = || dial.curve().map(|curve| curve.linked);
    tell(FIRST - 1, 2.0, 5_000);
    dial.replaced(None);
    tell(FIRST - 1, 2.0, 5_000);
    assert_eq!(nodes(), None);
    tell(1, 2.0, 5_000);
    assert_eq!(nodes(), Some(0), "until there are enough");
    let little = dial.effort(0.95, 10);
    tell(ENOUGH - FIRST, 2.0, 5_000);
    assert_eq!(nodes(), Some(5_000));
    assert_eq!(dial.effort(0.95, 10), little);
    tell(ENOUGH - 1, 4.0, 8_000);
    dial.measured(curve());
    tell(ENOUGH - 1, 4.0, 8_000);
    assert_eq!(nodes(), Some(5_000), "it begins anew");
    tell(1, 4.0, 8_000);
    assert_eq!(nodes(), Some(8_000));
    assert!(dial.effort(0.95, 10).abs_diff(2 * little) <= 2);
    // Hardly anything but copies: the last is taken to be of this graph.
    let last = dial.curve().unwrap();
    dial.gathered(vec![], LOOKED_AT * ENOUGH, 10_000, Duration::ZERO);
    assert_eq!(*dial.curve().unwrap(), last.of(10_000));
}

#[test]
fn one_query_at_a_time_is_taken_for_checking() {
    let dial = Dial::default();
    dial.offer(&[1.0], 1_000, 40);
    dial.offer(&[2.0], 10, 40);
    dial.offer(&[3.0], 10, 40);
    assert_eq!(dial.next_question().unwrap().query, [2.0]);
    dial.offer(&[4.0], 10, 40); // too soon
    dial.stop();
    assert!(dial.next_question().is_none());
}
