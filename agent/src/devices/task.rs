//! The life of one device: connect, read on schedule, write what is desired, report.
//!
//! In: the entry in force, through a watch channel. Out: reports on the board. Each call of a driver has
//! a deadline, and a panic in it ends here: the device says so, and starts anew after a while.

use std::{convert::Infallible, future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use selvedge_model::{ContentHash, DeviceEntry};
use selvedge_protocol::agent::DeviceState;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    DeviceKey, DeviceReport,
    board::ReportBoard,
    clock,
    driver::{Broken, Driver},
    limiter::Limiter,
    modbus::Modbus,
    simulated::Simulated,
    twin::Twin,
};

/// A driver bounds its own requests; one that takes longer than this for any call hangs.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Waits between connections, with jitter. Short at the end as well: the device is next door, and
/// nobody else pays for the attempt.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// What is in force for a device.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) uid: String,
    pub(super) content_hash: ContentHash,
    pub(super) entry: Arc<DeviceEntry>,
}

/// Why a device is not connected.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outage {
    reason: &'static str,
    message: String,
}

/// Runs a device until the task is dropped.
pub(super) async fn run(key: DeviceKey, target: watch::Receiver<Target>, board: Arc<ReportBoard>) {
    let (of, on) = (key.clone(), Arc::clone(&board));
    guard(key, target, board, move |target| live(of.clone(), target, Arc::clone(&on)).boxed()).await;
}

/// The panic boundary: lives one life after another.
pub(super) async fn guard(
    key: DeviceKey,
    mut target: watch::Receiver<Target>,
    board: Arc<ReportBoard>,
    mut life: impl FnMut(&mut watch::Receiver<Target>) -> BoxFuture<'_, Infallible>,
) {
    let mut retry = Retry::default();
    loop {
        let Err(panic) = AssertUnwindSafe(life(&mut target)).catch_unwind().await;
        let what = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let what = what.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        let message = format!("the driver panicked: {what}");
        tracing::error!(device = %key, "{message}");
        let mut device = Device::new(key.clone(), Arc::clone(&board), target.borrow().clone());
        device.outage(Outage { reason: "DriverFailed", message });
        device.report(Instant::now(), Vec::new());
        sleep(retry.next()).await;
    }
}

async fn live(key: DeviceKey, target: &mut watch::Receiver<Target>, board: Arc<ReportBoard>) -> Infallible {
    let aim = target.borrow_and_update().clone();
    let entry = Arc::clone(&aim.entry);
    let device = Device::new(key, board, aim);
    let protocol = &entry.protocol;
    let why = match (&protocol.modbus, &protocol.simulated) {
        (Some(modbus), None) => match Modbus::new(modbus, &entry.properties) {
            Ok(driver) => return drive(driver, device, target).await,
            Err(why) => why,
        },
        (None, Some(_)) => return drive(Simulated::new(&entry.properties), device, target).await,
        _ => "spec.protocol has not exactly one member that this agent knows".to_owned(),
    };
    unsupported(device, target, why).await
}

/// Another wiring makes another task, so there is nothing to do but to say it.
async fn unsupported(mut device: Device, target: &mut watch::Receiver<Target>, why: String) -> Infallible {
    loop {
        device.outage(Outage { reason: "Unsupported", message: why.clone() });
        device.report(Instant::now(), Vec::new());
        next(target).await;
        device.target = target.borrow_and_update().clone();
    }
}

/// Waits for another target. A sender that is gone sends none: the task is about to be dropped.
async fn next(target: &mut watch::Receiver<Target>) {
    if target.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

pub(super) async fn drive<D: Driver>(
    mut driver: D,
    device: Device,
    target: &mut watch::Receiver<Target>,
) -> Infallible {
    let twin = Twin::new(&device.target.entry, &driver, Instant::now());
    let mut session = Session { device, twin };
    let entry = Arc::clone(&session.device.target.entry);
    // The first read comes before any write: what is desired may be in the device already.
    session.twin.aim(&entry, &driver);
    let mut retry = Retry::default();
    loop {
        let outage = session.connected(&mut driver, target, &mut retry).await;
        if session.device.outage.as_ref() != Some(&outage) {
            tracing::warn!(device = %session.device.key, reason = outage.reason, "{}", outage.message);
        }
        session.device.outage(outage);
        let again = Instant::now() + retry.next();
        while Instant::now() < again {
            session.say();
            tokio::select! {
                () = next(target) => {
                    // Compared with what is read once the device is back.
                    session.aim(target, &driver);
                }
                () = until(session.device.limiter.due()) => {}
                () = sleep_until(again) => {}
            }
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Calls a driver.
async fn call<T>(answer: impl Future<Output = Result<T, Broken>>) -> Result<T, Outage> {
    match timeout(CALL_DEADLINE, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(broken)) => Err(Outage { reason: broken.reason(), message: broken.to_string() }),
        Err(_) => {
            let message = format!("the driver did not come back within {} s", CALL_DEADLINE.as_secs());
            Err(Outage { reason: "DriverFailed", message })
        }
    }
}

struct Session {
    device: Device,
    twin: Twin,
}

impl Session {
    /// One connection, until it breaks.
    async fn connected<D: Driver>(
        &mut self,
        driver: &mut D,
        target: &mut watch::Receiver<Target>,
        retry: &mut Retry,
    ) -> Outage {
        let Err(outage) = self.talk(driver, target, retry).await;
        outage
    }

    async fn talk<D: Driver>(
        &mut self,
        driver: &mut D,
        target: &mut watch::Receiver<Target>,
        retry: &mut Retry,
    ) -> Result<Infallible, Outage> {
        call(driver.connect()).await?;
        self.twin.read_all(Instant::now());
        loop {
            self.read(driver).await?;
            // Only an answer proves that somebody is there: a gateway takes connections for the dead.
            if self.device.online() {
                tracing::info!(device = %self.device.key, "connected");
            }
            *retry = Retry::default();
            self.say();
            tokio::select! {
                biased;
                () = next(target) => {
                    for property in self.aim(target, driver) {
                        self.write(driver, property).await?;
                    }
                }
                () = until(self.device.limiter.due()) => {}
                () = until(self.twin.next_read()) => {}
            }
        }
    }

    fn aim<D: Driver>(&mut self, target: &mut watch::Receiver<Target>, driver: &D) -> Vec<usize> {
        let aim = target.borrow_and_update().clone();
        let changed = self.twin.aim(&aim.entry, driver);
        self.device.aim(aim);
        changed
    }

    async fn read<D: Driver>(&mut self, driver: &mut D) -> Result<(), Outage> {
        let due = self.twin.take_due(Instant::now());
        if due.is_empty() {
            return Ok(());
        }
        let values = call(driver.read(&due)).await?;
        let mut differ = Vec::new();
        for (property, value) in values {
            if self.twin.saw(property, value, clock::unix_ms(), Instant::now()) {
                differ.push(property);
            }
        }
        for property in differ {
            self.write(driver, property).await?;
        }
        Ok(())
    }

    /// Writes what is desired and reads it back: only that proves it.
    async fn write<D: Driver>(&mut self, driver: &mut D, property: usize) -> Result<(), Outage> {
        let Some(value) = self.twin.to_write(property) else { return Ok(()) };
        let written = call(driver.write(property, &value)).await?;
        let failed = written.is_err();
        self.twin.wrote(property, written, Instant::now());
        if failed {
            return Ok(());
        }
        for (property, value) in call(driver.read(&[property])).await? {
            self.twin.saw(property, value, clock::unix_ms(), Instant::now());
        }
        Ok(())
    }

    /// Reports, if there is something to say and the time has come.
    fn say(&mut self) {
        let now = Instant::now();
        self.device.judge(self.twin.is_as_desired());
        if self.twin.take_dirty() | std::mem::take(&mut self.device.dirty) {
            self.device.limiter.state(now);
        }
        if let Some(interval) = self.twin.news() {
            self.device.limiter.value(interval, now);
        }
        if self.device.limiter.due().is_some_and(|due| due <= now) {
            self.device.report(now, self.twin.publish());
        }
    }
}

/// What is said of the device as a whole.
pub(super) struct Device {
    key: DeviceKey,
    board: Arc<ReportBoard>,
    target: Target,
    /// None: connected, or not known yet.
    outage: Option<Outage>,
    connected: bool,
    applied: Option<ContentHash>,
    limiter: Limiter,
    dirty: bool,
}

impl Device {
    pub(super) fn new(key: DeviceKey, board: Arc<ReportBoard>, target: Target) -> Self {
        Self {
            key,
            board,
            target,
            outage: None,
            connected: false,
            applied: None,
            limiter: Limiter::default(),
            dirty: false,
        }
    }

    fn aim(&mut self, target: Target) {
        if target.uid != self.target.uid {
            self.applied = None;
        }
        self.dirty |= target.uid != self.target.uid || target.content_hash != self.target.content_hash;
        self.target = target;
    }

    /// True: it was not before.
    fn online(&mut self) -> bool {
        self.outage = None;
        let new = !std::mem::replace(&mut self.connected, true);
        self.dirty |= new;
        new
    }

    fn outage(&mut self, outage: Outage) {
        self.dirty |= self.connected || self.outage.as_ref() != Some(&outage);
        self.connected = false;
        self.outage = Some(outage);
    }

    /// What is applied: the entry whose desired values are all in the device. Before the first
    /// connection nothing is known; when a value is lost again, nothing is applied.
    fn judge(&mut self, as_desired: bool) {
        let applied = if as_desired && (self.connected || self.applied.is_some()) {
            Some(self.target.content_hash)
        } else {
            self.applied.filter(|applied| *applied != self.target.content_hash)
        };
        self.dirty |= applied != self.applied;
        self.applied = applied;
    }

    fn report(&mut self, now: Instant, properties: Vec<selvedge_protocol::agent::PropertyState>) {
        self.limiter.sent(now);
        let (reason, message) = match &self.outage {
            Some(outage) => (outage.reason, outage.message.clone()),
            None if self.connected => ("", String::new()),
            None => ("Connecting", String::new()),
        };
        let state = DeviceState { connected: self.connected, reason: reason.to_owned(), message, properties };
        let report = DeviceReport {
            namespace: self.key.namespace.clone(),
            name: self.key.name.clone(),
            uid: self.target.uid.clone(),
            content_hash: self.applied,
            state,
        };
        self.board.put(&self.key, report);
    }
}

/// Waits that double, with jitter.
struct Retry(Duration);

impl Default for Retry {
    fn default() -> Self {
        Self(FIRST_RETRY)
    }
}

impl Retry {
    fn next(&mut self) -> Duration {
        let wait = self.0.mul_f64(rand::random_range(0.5..1.0));
        self.0 = (self.0 * 2).min(LONGEST_RETRY);
        wait
    }
}
