//! An index whose engine failed: it stops serving, says why, and is copied again.

use super::*;

#[test]
fn an_index_whose_engine_failed_stops_serving_and_is_copied_again() {
    let calm = [2]; // nothing fails, and all is read
    let mut calm = Choices(calm.iter().cycle());
    let mut trial = Trial::new(history(&mut calm, &relation()));
    let last = trial.history.len() - 1;
    for number in 0..=last {
        trial.stream(number, &mut calm);
    }
    trial.copy_until_ready(last, &mut calm);
    let broken = trial.view.borrow().indexes[0].snapshot.clone().unwrap();
    broken.break_engine("out of order");
    trial.applier.tick();
    {
        let view = trial.view.borrow();
        let Phase::Failed { error } = &view.indexes[0].phase else {
            panic!("{:?}", view.indexes[0].phase);
        };
        assert_eq!(error, "index engine: out of order");
        assert!(view.indexes[0].snapshot.is_none(), "it still serves");
        assert_eq!(view.indexes[1].phase, Phase::Ready, "the other serves on");
    }
    trial.time_passes();
    trial.copy_until_ready(last, &mut calm);
    trial.check();
}
