//! Logging: to standard error, as text or JSON, filtered by directives.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::args::{CommonArgs, LogFormat};

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The directives do not parse.
    #[error("--log {directives:?} is not a list of directives such as info,selvedge_hub=debug")]
    Directives {
        /// As given.
        directives: String,
        /// Why.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Something has set it up before.
    #[error("logging was set up twice")]
    Twice,
}

/// Sets up logging for the process; once.
///
/// # Errors
/// [`TelemetryError`].
pub fn init(args: &CommonArgs) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(&args.log)
        .map_err(|source| TelemetryError::Directives { directives: args.log.clone(), source })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let done = match args.log_format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    done.map_err(|_| TelemetryError::Twice)
}

/// The chain of an error in one line: `a: b: c`. Sources that their parent's text repeats are left out, and
/// an answer of the API server is its message and code, not the whole Status that kube prints with it.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = said(error);
    let mut source = error.source();
    while let Some(error) = source {
        let next = said(error);
        text = text.replace(&error.to_string(), &next);
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        if matches!(error.downcast_ref(), Some(kube::Error::Api(_))) {
            break; // below it is only the Status again
        }
        source = error.source();
    }
    text
}

fn said(error: &(dyn std::error::Error + 'static)) -> String {
    match error.downcast_ref() {
        Some(kube::Error::Api(status)) => format!("{} (HTTP {})", status.message.trim(), status.code),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("inner")]
    struct Inner;

    #[test]
    fn a_chain_is_one_line() {
        assert_eq!(super::chain(&Outer(Inner)), "outer: inner");
        assert_eq!(super::chain(&Inner), "inner");
    }

    #[test]
    fn the_api_server_is_quoted_in_short() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot list: {0}")]
        struct List(#[source] kube::Error);

        let status = kube::core::Status { message: "no such kind\n".into(), code: 404, ..Default::default() };
        let error = List(kube::Error::Api(status.boxed()));
        assert_eq!(super::chain(&error), "cannot list: no such kind (HTTP 404)");
    }
}
