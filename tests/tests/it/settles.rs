//! One call that settles 500 attempts, on the stores without a wire. `wire` has it on PostgreSQL.

use std::time::Duration;

use steadfast_core::Storage;
use steadfast_sim::choices::Choices;
use steadfast_sim::scheduler::{Bounds, Scheduler};
use steadfast_sim::world::{Kind, Profile, World};
use steadfast_sqlite::{Options, SqliteStorage};
use steadfast_tests::settles::Settles;

async fn settle_twice(store: impl Storage) {
    let settles = Settles::prepare(&store).await;
    let first = store.apply(&settles.batches).await.expect("the call is answered");
    settles.check(&first, true);
    settles.check_rows(&store).await;
    let again = store.apply(&settles.batches).await.expect("the call is answered again");
    settles.check(&again, false);
    settles.check_rows(&store).await;
}

#[tokio::test]
async fn five_hundred_settles_in_one_call_on_sqlite() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let options = Options::file(directory.path().join("tasks.db"));
    settle_twice(SqliteStorage::open(options).expect("the store opens")).await;
}

#[test]
fn five_hundred_settles_in_one_call_on_the_simulated_stores() {
    for profile in Profile::ALL {
        let choices = Choices::from_seed(1);
        let scheduler = Scheduler::new(choices.clone(), 0);
        let world = World::on(scheduler.clone(), choices, Kind::of(profile));
        let store = world.start("worker", 100).storage();
        let bounds = Bounds { polls: 100_000, time: Duration::from_secs(60) };
        scheduler.run(bounds, settle_twice(store)).expect("nothing waits for ever");
    }
}
