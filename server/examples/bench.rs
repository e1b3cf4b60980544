//! The command `bench` by itself.

use std::process::ExitCode;

use clap::Parser;
use steadfast::StoreUrl;
use steadfast_server::bench::{self, Bench};

#[derive(Parser)]
struct Cli {
    #[arg(long)]
    store: Option<StoreUrl>,
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    bench: Bench,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match bench::run(&cli.bench, cli.store.as_ref()).await {
        Ok(report) if cli.json => {
            println!("{}", serde_json::to_string(&report).expect("our own types are JSON"));
            ExitCode::SUCCESS
        }
        Ok(report) => {
            report.page(&mut anstream::stdout()).expect("stdout can be written");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
