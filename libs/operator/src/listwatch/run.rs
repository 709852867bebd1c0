//! The loop: steps of the machine carried out, outcomes given back to it, events given to the consumer.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use kube::Client;
use kube::api::WatchEvent;
use serde_json::Value;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::held::Held;
use super::machine::{Machine, Outcome, Revision, Step, WentBack};
use super::request::{ListWatchError, number, page, probe, prune, revision, watch};
use super::{Event, Target, Undecodable};

/// A watch that is silent for this long past its end is dead.
const GRACE: Duration = Duration::from_secs(5);

/// Asks a loop for the present revision, or for all anew: see [`Poke::poke`] and [`Poke::outdated`].
#[derive(Clone, Debug, Default)]
pub struct Poke(Arc<Asked>);

#[derive(Debug, Default)]
struct Asked {
    wake: Notify,
    outdated: AtomicBool,
}

impl Poke {
    /// Makes the loop say soon (in 2 to 4 s, by a bookmark, an event or a list) that it has reached a
    /// revision that is the most recent one at, or after, this call. A quiet kind gets no bookmark for
    /// minutes otherwise (sync rule 7). If it is there already, it says nothing. Calls while one is under
    /// way are one.
    pub fn poke(&self) {
        self.0.wake.notify_one();
    }

    /// Makes the loop list anew soon: what it has read is of a history that is over, as another loop or a mark
    /// proves (sync rule 8).
    pub fn outdated(&self) {
        self.0.outdated.store(true, Ordering::Relaxed);
        self.0.wake.notify_one();
    }

    /// Why a watch is cut short; what was asked for is taken by it.
    #[must_use]
    pub fn take(&self) -> Outcome {
        if self.0.outdated.swap(false, Ordering::Relaxed) { Outcome::Outdated } else { Outcome::Poked }
    }
}

/// One kind's loop.
pub struct ListWatch<D> {
    client: Client,
    target: Target,
    decode: D,
    poke: Poke,
}

/// Nobody takes the events any more.
struct Closed;

impl<D> ListWatch<D> {
    /// A loop over `target` that gives each object, as pruned JSON, to `decode`.
    #[must_use]
    pub fn new(client: Client, target: Target, decode: D) -> Self {
        Self { client, target, decode, poke: Poke::default() }
    }

    /// The handle to poke it.
    #[must_use]
    pub fn poke(&self) -> Poke {
        self.poke.clone()
    }

    /// Runs until `token` is cancelled or the receiver of `out` is gone. A full channel holds the loop
    /// back: nothing is dropped.
    pub async fn run<T, E: Display>(self, out: mpsc::Sender<Event<T>>, token: CancellationToken)
    where
        D: Fn(Value) -> Result<T, E>,
    {
        tokio::select! {
            () = token.cancelled() => {}
            _ = self.go(&out) => {}
        }
    }

    async fn go<T, E: Display>(&self, out: &mpsc::Sender<Event<T>>) -> Result<(), Closed>
    where
        D: Fn(Value) -> Result<T, E>,
    {
        let mut machine = Machine::new(Instant::now());
        let mut held = Held::default();
        loop {
            let asked = Instant::now().into_std();
            let done = match machine.next(Instant::now()) {
                Step::Wait(delay) => {
                    sleep(delay).await;
                    continue;
                }
                Step::List => match self.list(&mut held, asked).await {
                    Ok((revision, went_back, event)) => {
                        let back = machine.on(Outcome::Listed(revision), Instant::now());
                        say_back(back.or(went_back), out).await?;
                        emit(out, event).await?;
                        emit(out, Event::Recent { revision, asked }).await?;
                        continue;
                    }
                    Err(error) => Err(error),
                },
                Step::Probe => match probe(&self.client, &self.target).await {
                    Ok(revision) => {
                        let back = machine.on(Outcome::Probed(revision), Instant::now());
                        if back.is_some() {
                            // Said once: the list that follows has every object that went back.
                            held = Held::default();
                        }
                        say_back(back, out).await?;
                        emit(out, Event::Recent { revision, asked }).await?;
                        continue;
                    }
                    Err(error) => Err(error),
                },
                Step::Watch { from, seconds, pokable } => {
                    let known = (&mut machine, &mut held);
                    self.watch(known, from, seconds, pokable, out).await?
                }
            };
            let outcome = match done {
                Ok(outcome) => outcome,
                Err(error) => {
                    let expired = matches!(error, ListWatchError::Expired { .. });
                    emit(out, Event::Failed { error }).await?;
                    if expired { Outcome::Expired } else { Outcome::Failed }
                }
            };
            machine.on(outcome, Instant::now());
        }
    }

    /// The full set, page by page; and whether an object of it went back.
    async fn list<T, E: Display>(
        &self,
        held: &mut Held,
        asked: std::time::Instant,
    ) -> Result<(Revision, Option<WentBack>, Event<T>), ListWatchError>
    where
        D: Fn(Value) -> Result<T, E>,
    {
        let (mut objects, mut undecodable, mut token) = (Vec::new(), Vec::new(), None);
        let mut seen = Vec::new();
        loop {
            let page = page(&self.client, &self.target, token.as_deref()).await?;
            let revision = page.revision(&self.target)?;
            token = page.next();
            for object in page.items {
                seen.push((uid(&object).to_owned(), self::revision(&object, &self.target)?));
                match self.decode(object) {
                    Ok(object) => objects.push(object),
                    Err(object) => undecodable.push(object),
                }
            }
            if token.is_none() {
                let back = held.listed(seen.iter().map(|(uid, revision)| (uid.as_str(), *revision)));
                return Ok((revision, back, Event::Listed { revision, asked, objects, undecodable }));
            }
        }
    }

    /// One watch to its end.
    async fn watch<T, E: Display>(
        &self,
        (machine, held): (&mut Machine, &mut Held),
        from: Revision,
        seconds: u32,
        pokable: bool,
        out: &mpsc::Sender<Event<T>>,
    ) -> Result<Result<Outcome, ListWatchError>, Closed>
    where
        D: Fn(Value) -> Result<T, E>,
    {
        let end = Instant::now() + Duration::from_secs(seconds.into()) + GRACE;
        let mut events = match watch(&self.client, &self.target, from, seconds).await {
            Ok(events) => std::pin::pin!(events),
            Err(error) => return Ok(Err(error)),
        };
        emit(out, Event::Alive).await?;
        loop {
            let event = tokio::select! {
                event = timeout_at(end, events.next()) => event,
                () = self.poke.0.wake.notified(), if pokable => return Ok(Ok(self.poke.take())),
            };
            let event = match event {
                Err(_) => return Ok(Err(ListWatchError::Timeout { kind: self.target.kind.clone() })),
                Ok(None) => {
                    emit(out, Event::Alive).await?;
                    return Ok(Ok(Outcome::Ended));
                }
                Ok(Some(Err(error))) => return Ok(Err(error)),
                Ok(Some(Ok(event))) => event,
            };
            match self.said(event, held) {
                Ok((revision, event)) => {
                    machine.on(Outcome::Reached(revision), Instant::now());
                    emit(out, event).await?;
                }
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    fn said<T, E: Display>(
        &self,
        event: WatchEvent<Value>,
        held: &mut Held,
    ) -> Result<(Revision, Event<T>), ListWatchError>
    where
        D: Fn(Value) -> Result<T, E>,
    {
        let (object, deleted) = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
            WatchEvent::Deleted(object) => (object, true),
            WatchEvent::Bookmark(bookmark) => {
                let revision = number(&bookmark.metadata.resource_version, &self.target)?;
                return Ok((revision, Event::Bookmark { revision }));
            }
            WatchEvent::Error(status) => {
                return Err(ListWatchError::Watch {
                    kind: self.target.kind.clone(),
                    source: kube::Error::Api(status),
                });
            }
        };
        let revision = revision(&object, &self.target)?;
        if deleted {
            held.deleted(uid(&object));
        } else {
            held.saw(uid(&object), revision);
        }
        let event = match (self.decode(object), deleted) {
            (Ok(object), false) => Event::Applied { revision, object },
            (Ok(object), true) => Event::Deleted { revision, object },
            (Err(object), deleted) => Event::Undecodable { revision, object, deleted },
        };
        Ok((revision, event))
    }

    fn decode<T, E: Display>(&self, mut object: Value) -> Result<T, Undecodable>
    where
        D: Fn(Value) -> Result<T, E>,
    {
        prune(&mut object);
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (namespace, name, uid) = (text("namespace"), text("name"), text("uid"));
        (self.decode)(object).map_err(|error| Undecodable { namespace, name, uid, error: error.to_string() })
    }
}

fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

async fn say_back<T>(back: Option<WentBack>, out: &mpsc::Sender<Event<T>>) -> Result<(), Closed> {
    match back {
        Some(WentBack { seen, now }) => emit(out, Event::WentBack { seen, now }).await,
        None => Ok(()),
    }
}

async fn emit<T>(out: &mpsc::Sender<Event<T>>, event: Event<T>) -> Result<(), Closed> {
    out.send(event).await.map_err(|_| Closed)
}
