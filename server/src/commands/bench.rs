//! `bench`.

use std::process::ExitCode;

use steadfast::StoreUrl;

use super::Out;
use crate::bench::{self, Bench, Error};
use crate::failure::{Exit, Failure, chain};

pub(super) async fn bench(args: &Bench, store: Option<&StoreUrl>, out: Out) -> Result<ExitCode, Failure> {
    let report = bench::run(args, store).await?;
    out.write(&report, |out| report.page(out))?;
    Ok(ExitCode::SUCCESS)
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Open(error) => error.into(),
            Error::Store(error) => error.into(),
            Error::Postgres(_) => Failure::new(Exit::Unreachable, chain(&error)),
            Error::File(_) | Error::Sqlite(_) | Error::Wrong(_) => Failure::new(Exit::Failed, chain(&error)),
            Error::Interrupted => Failure::new(Exit::Interrupted, "interrupted; nothing is left behind"),
        }
    }
}
