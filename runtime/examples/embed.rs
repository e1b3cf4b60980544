//! Durable tasks inside a service, in one process and one SQLite file: `cargo run -p steadfast --example embed`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use steadfast::{Context, Failure, Handlers, Host, Job, Jobs, StoreUrl, TypedSteps};

/// A struct of arguments is a kind of task.
#[derive(Serialize, Deserialize)]
struct Greet {
    name: String,
}

impl Job for Greet {
    const KIND: &'static str = "greet";
    type Output = String;
}

/// Any error is retried; the step's result outlives a crash.
async fn greet(job: Greet, task: Context) -> Result<String, Failure> {
    task.progress(50, "looking for a word");
    let word: String = task.step_as("word", async || Ok::<_, Failure>("hello".to_owned())).await?;
    Ok(format!("{word}, {}", job.name))
}

#[tokio::main]
pub(crate) async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let store: StoreUrl = format!("sqlite:{}/tasks.db", directory.path().display()).parse()?;

    let host = Host::open(&store).await?;
    let handlers = Handlers::new().with_job(greet);
    let worker = host.work(handlers, host.worker_config())?;

    let task = host.submit(Greet { name: "world".into() }.task()?).await?;
    let ended = host.engine().wait(&task.id, None, Duration::from_secs(30)).await?.ok_or("it was pruned")?;
    println!("{}: {:?}", ended.state, Greet::output(&ended)?);

    worker.drain().await?;
    host.close().await;
    Ok(())
}
