//! Whole device tasks over drivers in memory, on paused time.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures::FutureExt as _;
use selvedge_model::{ContentHash, DeviceEntry};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{
    DesiredDevice, DeviceKey, DeviceReport, Devices, ReportBoard,
    driver::{Broken, Driver, Outcome},
    task::{self, Device, Target},
    value::Value,
};

pub(super) fn device(content: u8, entry: serde_json::Value) -> DesiredDevice {
    DesiredDevice {
        namespace: "shop".into(),
        name: "boiler".into(),
        uid: "u1".into(),
        content_hash: ContentHash([content; 32]),
        entry: Arc::new(serde_json::from_value(entry).unwrap()),
    }
}

/// The first report that fits, of those that come.
pub(super) async fn until(board: &ReportBoard, fits: impl Fn(&DeviceReport) -> bool) -> DeviceReport {
    let mut last = None;
    let found = timeout(Duration::from_secs(1000), async {
        loop {
            board.changed().await;
            for report in board.take_changed() {
                if fits(&report) {
                    return report;
                }
                last = Some(report);
            }
        }
    });
    match found.await {
        Ok(report) => report,
        Err(_) => panic!("no report fits; the last one was {last:#?}"),
    }
}

pub(super) fn values(report: &DeviceReport) -> Vec<(&str, &str, &str)> {
    let properties = report.state.properties.iter();
    properties.map(|p| (p.reported.as_str(), p.written.as_str(), p.error.as_str())).collect()
}

fn simulated(desired: serde_json::Value) -> serde_json::Value {
    serde_json::json!({
        "protocol": {"simulated": {}},
        "properties": [
            {"name": "setpoint", "type": "int", "access": "ReadWrite", "minimum": 10, "maximum": 90,
             "source": {"simulated": {}}, "desired": desired},
            {"name": "level", "type": "float", "source": {"simulated": {"waveform": "Sine"}}},
            {"name": "unwired", "type": "float"},
        ],
    })
}

#[tokio::test(start_paused = true)]
async fn a_simulated_device_takes_what_is_desired_and_refuses_by_property() {
    let mut devices = Devices::new();
    let board = devices.reports();
    devices.apply(vec![device(1, simulated(60.into()))]);
    let report = until(&board, |report| report.content_hash.is_some()).await;
    assert_eq!(values(&report)[0], ("60", "60", ""));
    assert_eq!(values(&report)[2], ("", "", ""), "a property without a source is no fault");
    assert!(report.state.connected);

    devices.apply(vec![device(2, simulated(91.into()))]);
    let report = until(&board, |report| !report.state.properties[0].error.is_empty()).await;
    assert_eq!(values(&report)[0], ("60", "", "91 is above the maximum"));
    assert_eq!(report.content_hash, Some(ContentHash([1; 32])), "the one before is what was applied");

    let mut level = simulated(60.into());
    level["properties"][1]["desired"] = 5.into();
    devices.apply(vec![device(3, level)]);
    let report = until(&board, |report| !report.state.properties[1].error.is_empty()).await;
    assert_eq!(values(&report)[1].2, "the property is read-only");

    devices.apply(vec![device(4, serde_json::json!({"protocol": {}, "properties": []}))]);
    let report = until(&board, |report| !report.state.connected).await;
    assert_eq!(report.state.reason, "Unsupported");

    devices.apply(Vec::new());
    assert_eq!(board.take_changed(), []);
}

/// A device with one register, as a test wants it to be.
#[derive(Clone, Default)]
struct Fake {
    register: Arc<Mutex<i128>>,
    writes: Arc<AtomicU32>,
    /// What somebody at the device sets it back to after each write.
    stubborn: Option<i128>,
    /// Rises by one at every read.
    rises: bool,
    /// Calls that never come back, or panic.
    hangs: Arc<AtomicU32>,
    panics: Arc<AtomicU32>,
}

fn one_less(counter: &AtomicU32) -> bool {
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

impl Driver for Fake {
    async fn connect(&mut self) -> Result<(), Broken> {
        Ok(())
    }
    fn unfit(&self, _: usize, _: bool) -> Option<String> {
        None
    }
    fn stored(&self, _: usize, value: &Value) -> Outcome<Value> {
        Ok(value.clone())
    }
    async fn read(&mut self, properties: &[usize]) -> Result<Vec<(usize, Outcome<Value>)>, Broken> {
        assert!(!one_less(&self.panics), "as asked");
        if one_less(&self.hangs) {
            std::future::pending::<()>().await;
        }
        *self.register.lock().unwrap() += i128::from(self.rises);
        let value = *self.register.lock().unwrap();
        if let Some(stubborn) = self.stubborn {
            *self.register.lock().unwrap() = stubborn;
        }
        Ok(properties.iter().map(|&p| (p, Ok(Value::Int(value)))).collect())
    }
    async fn write(&mut self, _: usize, value: &Value) -> Result<Outcome<()>, Broken> {
        let Value::Int(value) = value else { return Ok(Err("no int".into())) };
        self.writes.fetch_add(1, Ordering::Relaxed);
        *self.register.lock().unwrap() = *value;
        Ok(Ok(()))
    }
}

struct Bench {
    board: Arc<ReportBoard>,
    target: watch::Sender<Target>,
    _tasks: JoinSet<()>,
}

fn run(fake: &Fake, desired: impl Into<serde_json::Value>) -> Bench {
    let desired = desired.into();
    let entry = serde_json::json!({
        "protocol": {},
        "properties": [{"name": "setpoint", "type": "int", "access": "ReadWrite", "desired": desired, "source": {}}],
    });
    let entry: Arc<DeviceEntry> = Arc::new(serde_json::from_value(entry).unwrap());
    let (target, receiver) =
        watch::channel(Target { uid: "u1".into(), content_hash: ContentHash([1; 32]), entry });
    let board = Arc::new(ReportBoard::default());
    let key = DeviceKey { namespace: "shop".into(), name: "boiler".into() };
    let (fake, of, on) = (fake.clone(), key.clone(), Arc::clone(&board));
    let mut tasks = JoinSet::new();
    tasks.spawn(task::guard(key, receiver, Arc::clone(&board), move |target| {
        let device = Device::new(of.clone(), Arc::clone(&on), target.borrow_and_update().clone());
        task::drive(fake.clone(), device, target).boxed()
    }));
    Bench { board, target, _tasks: tasks }
}

#[tokio::test(start_paused = true)]
async fn a_value_that_is_there_already_is_not_written() {
    let fake = Fake::default();
    *fake.register.lock().unwrap() = 60;
    let bench = run(&fake, 60);
    let report = until(&bench.board, |report| report.content_hash.is_some()).await;
    assert_eq!(values(&report), [("60", "60", "")]);
    // Another entry of the same meaning for this device: a new version of the hub, say.
    bench.target.send_modify(|target| target.content_hash = ContentHash([2; 32]));
    until(&bench.board, |report| report.content_hash == Some(ContentHash([2; 32]))).await;
    assert_eq!(fake.writes.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_change_at_the_device_is_overruled_and_nothing_is_applied_meanwhile() {
    let fake = Fake::default();
    let bench = run(&fake, 60);
    until(&bench.board, |report| report.content_hash.is_some()).await;
    *fake.register.lock().unwrap() = 5;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(fake.writes.load(Ordering::Relaxed), 2, "the first time at the next read");
    *fake.register.lock().unwrap() = 5;
    let report = until(&bench.board, |report| report.content_hash.is_none()).await;
    let differs = "the device shows 5 where 60 is desired; it is written again after 2 s";
    assert_eq!(values(&report), [("5", "", differs)]);
    let report = until(&bench.board, |report| report.content_hash.is_some()).await;
    assert_eq!(values(&report), [("60", "60", "")]);
    assert_eq!(fake.writes.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn values_are_reported_once_an_interval() {
    let fake = Fake { rises: true, ..Fake::default() };
    let bench = run(&fake, serde_json::Value::Null);
    until(&bench.board, |report| report.state.connected).await;
    let start = Instant::now();
    for _ in 0..4 {
        until(&bench.board, |_| true).await;
    }
    assert_eq!(start.elapsed().as_secs(), 40, "10 s is the default");
}

#[tokio::test(start_paused = true)]
async fn a_fight_over_a_register_slows_down() {
    let fake = Fake { stubborn: Some(5), ..Fake::default() };
    let bench = run(&fake, 60);
    until(&bench.board, |report| !report.state.properties.is_empty()).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let writes = fake.writes.load(Ordering::Relaxed);
    assert!((10..=30).contains(&writes), "{writes} writes in an hour");
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_hangs_or_panics_says_so_and_is_tried_again() {
    let fake = Fake::default();
    fake.hangs.store(1, Ordering::Relaxed);
    let bench = run(&fake, 60);
    let report =
        until(&bench.board, |report| !report.state.connected && !report.state.reason.is_empty()).await;
    assert_eq!(report.state.reason, "DriverFailed");
    until(&bench.board, |report| report.state.connected).await;

    fake.panics.store(1, Ordering::Relaxed);
    let report =
        until(&bench.board, |report| !report.state.connected && report.state.reason == "DriverFailed").await;
    assert_eq!(report.state.message, "the driver panicked: as asked");
    let report = until(&bench.board, |report| report.state.connected && report.content_hash.is_some()).await;
    assert_eq!(values(&report), [("60", "60", "")]);
}
