//! The ledger's thread as the link drives it: what the hub was told with `Ack` is there after a cut.

use std::{sync::Arc, thread, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use selvedge_agent::ledger::{FromLedger, Handle, Machine, MemoryStore, Row, RowKey, open, run};
use selvedge_powercut::{Loss, Mounted};
use selvedge_protocol::agent::{to_agent::Message as FromHub, to_hub::Message as ToHub};
use tokio::{sync::watch, time::timeout};

use crate::hub::{CLUSTER, Hub, Step, welcome};

const SEEDS: u64 = 30;
/// Far more than a commit takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

type Rows = std::collections::BTreeMap<RowKey, Row>;

/// Sends deltas until the power goes; gives the rows at the last `Ack`, and with the delta after it.
async fn drive(disk: &Mounted, handle: &Handle, random: &mut StdRng) -> [Rows; 2] {
    let mut twin = Machine::open(MemoryStore::default(), "1", CLUSTER).unwrap();
    let mut hub = Hub::default();
    let hello = hub.next(&twin, random);
    hub.play(&mut twin, &hello).unwrap();
    let mut dialled = handle.hello(1, 0).await.unwrap();
    handle.receive(dialled.session, welcome(0)).unwrap();
    let cut = random.random_range(1..200);
    disk.change(|disk| disk.cut_after(cut));
    loop {
        let step = hub.next(&twin, random);
        let Step::Delta(delta) = &step else { continue };
        let acked = twin.rows().clone();
        hub.play(&mut twin, &step).unwrap();
        handle.receive(dialled.session, FromHub::Delta((**delta).clone())).unwrap();
        let answers = match timeout(PATIENCE, dialled.answers.recv()).await.unwrap() {
            Some(FromLedger::Answers(answers)) => answers,
            _ => return [acked, twin.rows().clone()],
        };
        match &answers[..] {
            [ToHub::Ack(_)] if disk.is_off() => return [twin.rows().clone(), twin.rows().clone()],
            [ToHub::Ack(_)] => {}
            _ => return [acked, twin.rows().clone()],
        }
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn what_the_hub_was_told_is_there_after_a_cut() {
    let disk = Mounted::new().expect("a disk can be mounted: this test needs root and /dev/fuse");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    for seed in 0..SEEDS {
        let mut random = StdRng::seed_from_u64(seed);
        disk.format();
        let opened = open(disk.path(), "1", CLUSTER).unwrap();
        let (handle, inbox) = Handle::new();
        let (desired, _desired) = watch::channel(Arc::default());
        let thread = thread::spawn(move || run(opened, inbox, desired));
        let may_hold = runtime.block_on(drive(&disk, &handle, &mut random));
        drop(handle);
        // Ends well, or says that its disk is gone.
        let _ = thread.join().unwrap();
        disk.change(|disk| {
            disk.cut();
            disk.restore(Loss::Sectors, &mut random);
        });
        let opened = open(disk.path(), "1", CLUSTER).unwrap();
        assert_eq!(opened.notice, "", "seed {seed}");
        assert!(may_hold.contains(opened.machine.rows()), "seed {seed} lost an acknowledged delta");
    }
}
