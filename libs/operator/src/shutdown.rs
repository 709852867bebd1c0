//! The end of a process: signals, and the one owner of all tasks.
//!
//! Tasks live as long as the process. The first that ends by itself ends the process, with its error; a
//! signal ends it without one. Either way the token is cancelled, and tasks have until the drain deadline
//! to finish what they hold.

use std::future::Future;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{BoxError, telemetry::chain};

/// Why a process ended, other than by a signal.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A task failed.
    #[error("{task} failed")]
    Failed {
        /// Its name.
        task: &'static str,
        /// Why.
        source: BoxError,
    },
    /// A task ended though nobody asked it to.
    #[error("{task} ended by itself")]
    Ended {
        /// Its name.
        task: &'static str,
    },
    /// A task panicked.
    #[error("a task panicked")]
    Panicked(#[source] tokio::task::JoinError),
    /// Tasks did not end in time.
    #[error("{left} tasks did not end within {deadline:?} and were cut off")]
    DrainTimeout {
        /// How many.
        left: usize,
        /// The deadline.
        deadline: Duration,
    },
    /// Signals cannot be listened to.
    #[error("cannot listen to signals")]
    Signals(#[source] std::io::Error),
}

/// The owner of all tasks of a process.
#[derive(Debug, Default)]
pub struct Tasks {
    set: JoinSet<(&'static str, Result<(), BoxError>)>,
    token: CancellationToken,
}

impl Tasks {
    /// Cancelled when the process is to end. A task watches it and then ends with `Ok`.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Starts a task that lives as long as the process. `name` stands in the error with which the process
    /// ends.
    pub fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), BoxError>> + Send + 'static,
    ) {
        self.set.spawn(async move { (name, task.await) });
    }

    /// Runs until SIGTERM, SIGINT or the first task that ends; then cancels the token and gives the
    /// others `drain` to end.
    ///
    /// # Errors
    /// The first [`RunError`]; later ones are logged.
    pub async fn run(self, drain: Duration) -> Result<(), RunError> {
        let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
        self.run_until(
            async move {
                tokio::select! {
                    _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
                    _ = interrupt.recv() => tracing::info!("SIGINT: draining"),
                }
            },
            drain,
        )
        .await
    }

    async fn run_until(mut self, stop: impl Future<Output = ()>, drain: Duration) -> Result<(), RunError> {
        let first = tokio::select! {
            () = stop => Ok(()),
            ended = self.set.join_next(), if !self.set.is_empty() => match ended {
                Some(Ok((task, Ok(())))) => Err(RunError::Ended { task }),
                Some(Ok((task, Err(source)))) => Err(RunError::Failed { task, source }),
                Some(Err(panicked)) => Err(RunError::Panicked(panicked)),
                None => Ok(()),
            },
        };
        self.token.cancel();
        let drained = tokio::time::timeout(drain, self.drain()).await;
        let cut = RunError::DrainTimeout { left: self.set.len(), deadline: drain };
        self.set.shutdown().await;
        match (first, drained) {
            (Err(error), _) => Err(error),
            (Ok(()), Ok(rest)) => rest,
            (Ok(()), Err(_)) => Err(cut),
        }
    }

    async fn drain(&mut self) -> Result<(), RunError> {
        let mut first = Ok(());
        while let Some(ended) = self.set.join_next().await {
            let error = match ended {
                Ok((_, Ok(()))) => continue,
                Ok((task, Err(source))) => RunError::Failed { task, source },
                Err(panicked) => RunError::Panicked(panicked),
            };
            tracing::warn!(error = chain(&error), "while draining");
            first = first.and(Err(error));
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use super::{RunError, Tasks};

    const DRAIN: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn a_failing_task_ends_the_others_and_the_process() {
        let mut tasks = Tasks::default();
        let token = tasks.token();
        let (done, drained) = tokio::sync::oneshot::channel();
        tasks.spawn("patient", async move {
            token.cancelled().await;
            let _ = done.send(());
            Ok(())
        });
        tasks.spawn("faulty", async { Err("no".into()) });
        let ended = tasks.run_until(pending(), DRAIN).await;
        assert!(matches!(ended, Err(RunError::Failed { task: "faulty", .. })), "{ended:?}");
        assert!(drained.await.is_ok(), "the other task was cut off instead of drained");
    }

    #[tokio::test(start_paused = true)]
    async fn ending_unasked_is_an_error_and_ending_when_asked_is_not() {
        let mut tasks = Tasks::default();
        tasks.spawn("short", async { Ok(()) });
        let ended = tasks.run_until(pending(), DRAIN).await;
        assert!(matches!(ended, Err(RunError::Ended { task: "short" })), "{ended:?}");

        let mut tasks = Tasks::default();
        let token = tasks.token();
        tasks.spawn("long", async move {
            token.cancelled().await;
            Ok(())
        });
        assert!(tasks.run_until(async {}, DRAIN).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends() {
        let mut tasks = Tasks::default();
        tasks.spawn("stuck", pending());
        let ended = tasks.run_until(async {}, DRAIN).await;
        assert!(matches!(ended, Err(RunError::DrainTimeout { left: 1, .. })), "{ended:?}");
    }
}
