//! `bench`: the figures of this machine.

use std::process::ExitCode;

use steadfast::StoreUrl;

use super::Out;
use crate::bench::{self, Bench, Error};
use crate::failure::{Exit, Failure};

/// Measures, and shows the report.
pub(super) async fn bench(args: &Bench, store: Option<&StoreUrl>, out: Out) -> Result<ExitCode, Failure> {
    let report = bench::run(args, store).await.map_err(|error| {
        let exit = match &error {
            Error::Open(_) | Error::Store(_) => Exit::Unreachable,
            Error::Interrupted => Exit::Interrupted,
            Error::File(_) | Error::Sqlite(_) | Error::Postgres(_) | Error::Wrong(_) => Exit::Failed,
        };
        Failure::new(exit, error.to_string())
    })?;
    out.write(&report, |stdout| report.page(stdout))?;
    Ok(ExitCode::SUCCESS)
}
