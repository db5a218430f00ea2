//! A reader beside the writer: it finds exactly what is durable, wherever it begins, and nothing that is damaged.

use super::*;
use crate::store::journal::tail::JournalReader;

struct Beside {
    reader: JournalReader,
    extent: watch::Sender<Extent>,
}

impl Beside {
    fn new(disk: &FaultDisk, writer: &Writer) -> Self {
        let (extent, receiver) = watch::channel(writer.extent());
        let reader = JournalReader {
            disk: Arc::new(disk.clone()),
            directory: PathBuf::from(DIRECTORY),
            epoch: 1,
            extent: receiver,
        };
        Self { reader, extent }
    }
}

fn is_relation(message: &Replayed) -> bool {
    matches!(message, Replayed::Message(m) if m.starts_with(b"relation"))
}

/// What the model holds after `from` and up to `end`, descriptions left aside.
fn expected(model: &Model, from: Lsn, end: Lsn) -> Vec<Replayed> {
    let between = model.messages.iter();
    let between = between.filter(|(message, at)| *at > from && *at <= end && !is_relation(message));
    between.map(|(message, _)| message.clone()).collect()
}

fn read(tail: &mut Tail) -> Vec<Replayed> {
    let messages = tail.map(Result::unwrap);
    messages.filter(|message| !is_relation(message)).collect()
}

#[test]
fn it_follows_the_durable_end_from_anywhere() {
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let disk = FaultDisk::new();
        let holds = Holds::default();
        let root = Path::new("");
        let recover =
            || RecoveredJournal::recover(Arc::new(disk.clone()), root, &origin(), holds.clone());
        let mut model = Model::default();
        let mut writer = Writer::start(recover().unwrap(), Lsn::new(START), SMALL).unwrap();
        let mut beside = Beside::new(&disk, &writer);
        let mut tail = beside.reader.tail(Lsn::new(START));
        let mut hold = holds.hold(Lsn::new(START));
        let mut found = Vec::new();
        let mut long_hold = None;
        for step in workload(&mut random, 60) {
            model.run(&mut writer, &step).unwrap();
            beside.extent.send_replace(writer.extent());
            if random.below(3) == 0 {
                found.extend(read(&mut tail));
                let durable = writer.durable();
                assert_eq!(tail.position(), durable);
                assert_eq!(
                    found,
                    expected(&model, Lsn::new(START), durable),
                    "seed {seed}"
                );
                hold.advance(tail.position());
                // Whatever begins at a held position later finds all that followed it.
                if let Some((from, _hold)) = long_hold.take_if(|_| random.below(3) == 0) {
                    let mut later = read(&mut beside.reader.tail(from));
                    let wanted = expected(&model, from, durable);
                    let extra = later.len() - wanted.len();
                    assert_eq!(later.split_off(extra), wanted);
                }
                long_hold.get_or_insert_with(|| (tail.position(), holds.hold(tail.position())));
            }
            if random.below(15) == 0 {
                // The process ends, or the journal failed: another writer goes on in the same files.
                found.extend(read(&mut tail));
                writer.abandon().unwrap();
                writer.sync().unwrap();
                let position = tail.position();
                writer = Writer::start(recover().unwrap(), Lsn::new(START), SMALL).unwrap();
                beside = Beside::new(&disk, &writer);
                tail = beside.reader.tail(position);
                let skipped = read(&mut tail);
                found.extend(expected(&model, position, writer.durable()));
                assert!(skipped.ends_with(&expected(&model, position, writer.durable())));
            }
        }
    }
}

#[test]
fn damage_anywhere_is_told_and_nothing_after_it_is_read() {
    let (disk, model, end) = three_segments();
    let writer = Writer::start(recover(&disk).unwrap(), Lsn::new(START), SMALL).unwrap();
    let beside = Beside::new(&disk, &writer);
    let all = expected(&model, Lsn::new(START), end);
    assert_eq!(read(&mut beside.reader.tail(Lsn::new(START))), all);
    for file in disk.files() {
        let bytes = disk.content(&file);
        for at in 0..bytes.len() {
            for truncated in [false, true] {
                let mut damaged = bytes.clone();
                if truncated {
                    damaged.truncate(at);
                } else {
                    damaged[at] ^= 0x10;
                }
                disk.replace(&file, damaged);
                let mut tail = beside.reader.tail(Lsn::new(START));
                let mut good = Vec::new();
                let failed = loop {
                    match tail.next() {
                        Some(Ok(message)) if is_relation(&message) => {}
                        Some(Ok(message)) => good.push(message),
                        Some(Err(_)) => break true,
                        None => break false,
                    }
                };
                assert!(failed, "byte {at} of {}", file.display());
                assert!(tail.next().is_none(), "nothing follows an error");
                // All of them only if the last segment, which has none, is damaged.
                assert!(all.starts_with(&good));
            }
        }
        disk.replace(&file, bytes);
    }
}

#[test]
fn a_held_position_is_not_trimmed() {
    let disk = FaultDisk::new();
    let holds = Holds::default();
    let recovered = RecoveredJournal::recover(
        Arc::new(disk.clone()),
        Path::new(""),
        &origin(),
        holds.clone(),
    );
    let mut writer = Writer::start(recovered.unwrap(), Lsn::new(START), SMALL).unwrap();
    let mut model = Model::default();
    let early = holds.hold(Lsn::new(START));
    let second = holds.hold(Lsn::new(START));
    for _ in 0..20 {
        model.run(&mut writer, &Step::Transaction(4)).unwrap();
    }
    writer.sync().unwrap();
    let (files, end) = (disk.files().len(), writer.durable());
    assert!(files > 2);
    for hold in [early, second] {
        writer.trim(end).unwrap();
        assert_eq!(disk.files().len(), files, "it is still held");
        drop(hold);
    }
    writer.trim(end).unwrap();
    assert_eq!(disk.files().len(), 1);
    // What is gone is an error, not an empty journal.
    let mut tail = Beside::new(&disk, &writer).reader.tail(Lsn::new(START));
    assert!(matches!(tail.next(), Some(Err(StoreError::Corrupt { .. }))));
}
