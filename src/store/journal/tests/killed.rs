//! What a process that was killed leaves in the operating system's memory, and what a lost connection leaves in the writer's.

use super::*;

#[test]
fn what_was_never_synced_is_not_called_durable_by_the_next_process() {
    for seed in 0..12 {
        let steps = workload(&mut Random::new(seed), 40);
        let disk = FaultDisk::new();
        run(&disk, &steps, &mut Model::default()).unwrap();
        for at in 1..=disk.operations() {
            let disk = FaultDisk::new();
            disk.arrange(at, Fault::Stop);
            let mut model = Model::default();
            let _told = run(&disk, &steps, &mut model);
            // Only the process is gone: what it wrote can be read.
            disk.arrange(u64::MAX, Fault::Stop);
            let found = recover(&disk).unwrap();
            let Ok(writer) = Writer::start(found, Lsn::new(START), SMALL) else {
                panic!("seed {seed} at {at}");
            };
            let told = writer.durable();
            // Now the power is.
            let after = disk.reboot(&mut Random::new(seed * 1000 + at));
            check(&recover(&after).unwrap(), &model, told);
        }
    }
}

#[test]
fn a_description_does_not_outlive_its_connection() {
    let disk = FaultDisk::new();
    let mut writer = Writer::start(recover(&disk).unwrap(), Lsn::new(START), SMALL).unwrap();
    let mut model = Model::default();
    model.run(&mut writer, &Step::Transaction(1)).unwrap();
    writer.abandon().unwrap();
    // Transactions that describe nothing, until a segment is begun.
    let segments = disk.files().len();
    while disk.files().len() == segments {
        model.run(&mut writer, &Step::Position).unwrap();
    }
    let newest = disk.files().into_iter().max().unwrap();
    let content = disk.content(&newest);
    let described = content.windows(8).any(|bytes| bytes == b"relation");
    assert!(!described, "the table may be another by now");
}
