//! The shapes, against a real API server with nothing but the CRDs: no controller, no webhook. What users
//! copy (`examples/`) goes through the commands that they type, and the chart through helm.
//!
//! The API server lies under `target/` and is gone afterwards. `SELVEDGE_KUBECONFIG` names another one.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};
use selvedge_cluster::{Cluster, Layout, UpOptions};
use selvedge_stories::{Outcome, StoryError, Tools, eventually};

mod apply;
mod chart;
mod examples;
mod isolation;
mod permissions;
mod refusals;
mod rights;

/// An API server and the checkout.
pub struct Stage {
    pub tools: Tools,
    pub repository: PathBuf,
    cluster: Cluster,
}

type Shape = (&'static str, fn(&Stage) -> Outcome);

const SHAPES: [Shape; 23] = [
    ("examples::apply_twice_and_differ_not", examples::apply_twice_and_differ_not),
    ("examples::are_shown_in_columns", examples::are_shown_in_columns),
    ("examples::are_explained", examples::are_explained),
    ("examples::are_found_by_fields", examples::are_found_by_fields),
    ("examples::are_waited_for", examples::are_waited_for),
    ("apply::a_merge_patch_of_one_desired_value_leaves_the_others", apply::merge_patch),
    ("apply::a_file_that_changed_is_shown_and_applied", apply::client_side),
    ("apply::owning_one_container_leaves_the_others", apply::one_container),
    ("apply::owning_one_value_leaves_the_others", apply::one_value),
    ("apply::an_unknown_pod_field_arrives_unpruned", apply::unknown_pod_field),
    ("apply::a_pod_template_of_a_deployment_arrives_as_it_is", apply::template_of_a_deployment),
    ("refusals::say_what_is_wrong_where", refusals::say_what_is_wrong_where),
    ("refusals::let_through_what_is_just_inside", refusals::let_through_what_is_just_inside),
    ("chart::passes_lint", chart::passes_lint),
    ("chart::refuses_values_that_it_does_not_know", chart::refuses_values),
    ("chart::renders_what_was_reviewed", chart::renders_what_was_reviewed),
    ("chart::is_taken_by_the_api_server", chart::is_taken_by_the_api_server),
    ("chart::installs_over_what_it_kept", chart::installs_over_what_it_kept),
    ("isolation::pods_are_restricted", isolation::pods_are_restricted),
    ("isolation::pods_are_behind_policies", isolation::pods_are_behind_policies),
    ("permissions::are_explained", permissions::are_explained),
    ("permissions::are_reviewed_strictly", permissions::are_reviewed_strictly),
    ("rights::are_as_narrow_as_they_look", rights::are_as_narrow_as_they_look),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They share the examples.
    arguments.test_threads = Some(1);
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(None)).exit_code();
    }
    let stage = match Stage::set() {
        Ok(stage) => Arc::new(stage),
        Err(error) => {
            eprintln!("the stage could not be set: {error}");
            return ExitCode::FAILURE;
        }
    };
    let conclusion = libtest_mimic::run(&arguments, trials(Some(&stage)));
    if let Err(error) = stage.cluster.down() {
        eprintln!("the stage could not be cleared: {error}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

fn trials(stage: Option<&Arc<Stage>>) -> Vec<Trial> {
    let trial = |(name, shape): Shape| {
        let stage = stage.cloned();
        Trial::test(name, move || match stage {
            Some(stage) => shape(&stage).map_err(|error| error.to_string().into()),
            None => Err("there is no stage".into()),
        })
    };
    SHAPES.into_iter().map(trial).collect()
}

impl Stage {
    /// Starts the API server, installs the CRDs (a warning is an error) and applies the examples.
    fn set() -> Outcome<Self> {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shapes");
        let layout = Layout::at(directory).map_err(io("name the cluster's directory"))?;
        let cluster = Cluster::new(layout.clone());
        cluster.up(&UpOptions { api_only: true, ..UpOptions::default() })?;
        let tools = Tools::new(&layout.bin(), &layout.kubeconfig());
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let stage = Self { tools, repository, cluster };
        let crds: Vec<String> = selvedge_crds::manifest::plain()
            .map_err(|error| unexpected("CRDs render as YAML", error))?
            .into_iter()
            .map(|manifest| manifest.text)
            .collect();
        stage.tools.kubectl_with(&["apply", "--warnings-as-errors", "-f", "-"], &crds.join("---\n"))?;
        stage.tools.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"])?;
        // Discovery follows the CRDs within a second or two.
        eventually("the examples apply", Duration::from_secs(30), || {
            stage
                .tools
                .kubectl(&["apply", "--warnings-as-errors", "-f", &stage.path("examples")])
                .map_err(|error| error.to_string())
        })?;
        Ok(stage)
    }

    /// A path of the checkout, as a word of a command line.
    pub fn path(&self, path: &str) -> String {
        self.repository.join(path).display().to_string()
    }

    /// Runs a command that may well fail: whether it did not, its stdout and its stderr.
    pub fn attempt(&self, tool: &str, args: &[&str], input: &str) -> Outcome<(bool, String, String)> {
        let mut command = self.tools.command(tool, args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(io("run a tool"))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A tool that reads nothing closes its end: its own answer says more than the broken pipe.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().map_err(io("run a tool"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((output.status.success(), text(&output.stdout), text(&output.stderr)))
    }
}

/// Names what was tried when the machine refuses it.
pub fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> StoryError {
    move |source| StoryError::Io { what: what.to_owned(), source }
}

/// What should be, and what is.
pub fn unexpected(what: &str, found: impl std::fmt::Display) -> StoryError {
    StoryError::Unexpected { what: what.to_owned(), found: found.to_string() }
}
