//! `crdgen`: writes the CRDs, as templates of the chart or as plain YAML.
//!
//! In: the types of this crate. Out: one file a kind. `--check` writes nothing and fails when a file on
//! disk is not what would be written.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;
use selvedge_crds::manifest::{self, Manifest};

/// Writes the CRDs of Selvedge.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Folder of the chart's CRD templates.
    #[arg(long, default_value = "charts/selvedge/templates/crds")]
    chart: PathBuf,
    /// Write plain YAML into this folder instead, or to standard output for "-".
    #[arg(long, value_name = "DIR|-")]
    plain: Option<PathBuf>,
    /// Write nothing; fail when a file differs.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crdgen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Error> {
    if arguments.plain.as_deref() == Some(Path::new("-")) {
        let documents: Vec<String> = manifest::plain()?.into_iter().map(|manifest| manifest.text).collect();
        print!("{}", documents.join("---\n"));
        return Ok(());
    }
    let (folder, manifests) = match &arguments.plain {
        Some(folder) => (folder, manifest::plain()?),
        None => (&arguments.chart, manifest::chart()?),
    };
    for Manifest { file, text } in manifests {
        let path = folder.join(file);
        if arguments.check {
            let found =
                fs::read_to_string(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
            if found != text {
                return Err(Error::Differs { path });
            }
        } else {
            fs::create_dir_all(folder)
                .and_then(|()| fs::write(&path, text))
                .map_err(|source| Error::Write { path, source })?;
        }
    }
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot render a CRD as YAML: {0}")]
    Render(#[from] serde_yaml::Error),
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} is not what the types say: run `make generate` and commit the result", path.display())]
    Differs { path: PathBuf },
}
