//! Submitting inside a transaction of somebody else's.

use steadfast_core::engine::{Accepted, Submitted};
use steadfast_core::name::Slot;
use steadfast_core::step::Outcome;
use steadfast_core::storage::{ErrorKind, Storage};
use steadfast_core::task::{Cause, NewTask, OnConflict, OnParentFailure, Parent, State};
use steadfast_postgres::PostgresStorage;
use tokio_postgres::{Client, IsolationLevel};

use crate::bench::*;

/// A store, and a service's own session in the same database, which knows nothing of the store's schema.
struct Service {
    database: Database,
    store: PostgresStorage,
    client: Client,
}

impl Service {
    async fn open(test: &str) -> Option<Self> {
        let database = Database::new(test)?;
        let store = database.open().await;
        let client = stranger(&database.url).await;
        let own =
            "SET search_path = public; CREATE TABLE orders (id integer PRIMARY KEY); SET lock_timeout = '7s'";
        client.batch_execute(own).await.expect("the database takes a table");
        Some(Self { database, store, client })
    }

    async fn orders(&self) -> i64 {
        self.client.query_one("SELECT count(*) FROM public.orders", &[]).await.expect("counted").get(0)
    }
}

/// A task that is stored just now.
fn accepted(submitted: Submitted) -> Accepted {
    let Submitted::Accepted(accepted) = submitted else { panic!("{submitted:?}") };
    assert!(accepted.is_new && !accepted.joined, "{accepted:?}");
    accepted
}

fn slotted(id: &str, on_conflict: OnConflict) -> NewTask {
    NewTask { slot: Some((Slot::trusted("s"), on_conflict)), ..task(id) }
}

#[tokio::test]
async fn a_task_is_there_if_and_only_if_the_transaction_is() {
    let Some(mut service) = Service::open("a_task_is_there_if_and_only_if_the_transaction_is").await else {
        return;
    };
    for (id, commits) in [("rolled-back", false), ("committed", true)] {
        let mut hints = service.store.hints();
        let transaction = service.client.transaction().await.expect("begun");
        transaction.execute("INSERT INTO orders VALUES (1)", &[]).await.expect("inserted");
        let outcome = service.store.submit_within(&transaction, task(id)).await.expect("submitted");
        assert_eq!(accepted(outcome).id.as_str(), id);
        assert!(find(&service.store, id).await.is_none(), "nobody sees it yet");
        let shown = transaction.query_one("SHOW lock_timeout", &[]).await.expect("shown");
        assert_eq!(shown.get::<_, &str>(0), "7s", "the session has its own settings back");
        if commits {
            transaction.commit().await.expect("committed");
            // A listener of this process hears of it, as any other would.
            let heard = tokio::time::timeout(LONG, hints.wait()).await.expect("workers are woken");
            assert!(heard.ready, "{heard:?}");
        } else {
            transaction.rollback().await.expect("rolled back");
            assert!(find(&service.store, id).await.is_none());
        }
        let leases = claim(&service.store, 10).await.expect("claimed").tasks;
        let claimed: Vec<&str> = leases.iter().map(|lease| lease.task.as_str()).collect();
        assert_eq!(claimed, if commits { vec!["committed"] } else { vec![] });
        assert_eq!(service.orders().await, i64::from(commits));
    }
}

#[tokio::test]
async fn a_refusal_leaves_the_transaction_usable() {
    let Some(mut service) = Service::open("a_refusal_leaves_the_transaction_usable").await else { return };
    let known = [put(keyed("known", "k")), put(slotted("holder", OnConflict::Reject))];
    assert_all_applied(&service.store.apply(&known).await.expect("applied"));
    let transaction = service.client.transaction().await.expect("begun");
    let other = NewTask { priority: 7, ..keyed("other", "k") };
    let orphan = NewTask {
        parents: vec![Parent { id: task("nobody").id, on_failure: OnParentFailure::Fail }],
        ..task("o")
    };
    for (request, expected) in [
        (other, "KeyTaken"),
        (orphan, "ParentMissing"),
        (slotted("late", OnConflict::Reject), "SlotTaken"),
        (NewTask { payload: (*b"another").into(), ..slotted("joins", OnConflict::Join) }, "SlotTaken"),
        (NewTask { priority: 7, ..task("holder") }, "IdTaken"),
    ] {
        let outcome = service.store.submit_within(&transaction, request).await.expect("answered");
        let Submitted::Refused(why) = &outcome else { panic!("{expected}: {outcome:?}") };
        assert!(format!("{why:?}").starts_with(expected), "{why:?}");
    }
    let again = service.store.submit_within(&transaction, keyed("again", "k")).await.expect("answered");
    let Submitted::Accepted(again) = again else { panic!("{again:?}") };
    assert_eq!((again.id.as_str(), again.is_new), ("known", false));
    let joins = slotted("joins", OnConflict::Join);
    let joined = service.store.submit_within(&transaction, joins).await.expect("answered");
    let Submitted::Accepted(joined) = joined else { panic!("{joined:?}") };
    assert_eq!((joined.id.as_str(), joined.joined, joined.is_new), ("holder", true, false));
    let invalid = NewTask { attempts_max: 0, ..task("never") };
    let invalid = service.store.submit_within(&transaction, invalid).await.expect("answered");
    assert!(matches!(&invalid, Submitted::Invalid(why) if why.field == "attempts"), "{invalid:?}");
    transaction.execute("INSERT INTO orders VALUES (1)", &[]).await.expect("it goes on");
    accepted(service.store.submit_within(&transaction, task("late")).await.expect("submitted"));
    transaction.commit().await.expect("committed");
    assert_eq!(service.orders().await, 1);
    assert!(find(&service.store, "late").await.is_some());
}

#[tokio::test]
async fn slots_are_replaced_and_waited_for() {
    let Some(mut service) = Service::open("slots_are_replaced_and_waited_for").await else { return };
    let holder = [put(slotted("first", OnConflict::Reject))];
    assert_all_applied(&service.store.apply(&holder).await.expect("applied"));
    let transaction = service.client.transaction().await.expect("begun");
    for request in [slotted("waits", OnConflict::Queue), slotted("replaces", OnConflict::Replace)] {
        accepted(service.store.submit_within(&transaction, request).await.expect("submitted"));
    }
    transaction.commit().await.expect("committed");
    let first = find(&service.store, "first").await.expect("stored");
    assert_eq!((first.state, first.cause), (State::Cancelled, Some(Cause::Replaced)));
    assert_eq!(find(&service.store, "replaces").await.expect("stored").state, State::Ready);
    assert!(find(&service.store, "waits").await.expect("stored").slot_waiting);
}

/// Submits in a transaction at this level that has a snapshot already, after somebody else committed this.
async fn at(
    service: &mut Service,
    level: IsolationLevel,
    before: NewTask,
    request: NewTask,
) -> Result<Accepted, ErrorKind> {
    let transaction = service.client.build_transaction().isolation_level(level).start().await.expect("begun");
    transaction.query_one("SELECT count(*) FROM orders", &[]).await.expect("counted");
    assert_all_applied(&service.store.apply(&[put(before)]).await.expect("applied"));
    let submitted = service.store.submit_within(&transaction, request).await.map_err(|error| error.kind())?;
    transaction.commit().await.expect("committed");
    Ok(accepted(submitted))
}

#[tokio::test]
async fn another_isolation_level_is_right_or_fails_loudly() {
    let Some(mut service) = Service::open("another_isolation_level_is_right_or_fails_loudly").await else {
        return;
    };
    for (number, level) in
        [IsolationLevel::RepeatableRead, IsolationLevel::Serializable].into_iter().enumerate()
    {
        let id = |name: &str| format!("{name}-{number}");
        let child = NewTask {
            parents: vec![Parent { id: task(&id("other")).id, on_failure: OnParentFailure::Fail }],
            ..task(&id("child"))
        };
        let simple = at(&mut service, level, task(&id("other")), task(&id("simple"))).await;
        simple.expect("what doesn't meet anybody is stored");
        // A parent that is as the snapshot has it; a key that it can't see; a slot likewise.
        at(&mut service, level, task(&id("x")), child).await.expect("stored");
        assert_eq!(find(&service.store, &id("child")).await.expect("stored").state, State::Blocked);
        let slot = |name: &str, on_conflict| NewTask {
            slot: Some((Slot::trusted(id("slot")), on_conflict)),
            ..task(&id(name))
        };
        for (before, request) in [
            (keyed(&id("theirs"), &id("k")), keyed(&id("ours"), &id("k"))),
            (slot("holds", OnConflict::Reject), slot("waits", OnConflict::Queue)),
        ] {
            let unseen = request.id.clone();
            let error = at(&mut service, level, before, request).await.expect_err("the snapshot is too old");
            assert_eq!(error, ErrorKind::Conflict);
            assert!(find(&service.store, unseen.as_str()).await.is_none());
        }
        // Replacing ends a task, whose children a snapshot may not show.
        let error = at(&mut service, level, task(&id("y")), slot("replaces", OnConflict::Replace)).await;
        assert_eq!(error.expect_err("not at this level"), ErrorKind::Broken);
        assert_eq!(find(&service.store, &id("holds")).await.expect("stored").state, State::Ready);
    }
}

#[tokio::test]
async fn a_key_held_by_an_open_transaction_holds_up_nobody_else() {
    let Some(mut service) = Service::open("a_key_held_by_an_open_transaction_holds_up_nobody_else").await
    else {
        return;
    };
    let transaction = service.client.transaction().await.expect("begun");
    let held = service.store.submit_within(&transaction, keyed("held", "k")).await.expect("submitted");
    accepted(held);
    let merged = [put(task("innocent")), put(keyed("asks", "k"))];
    let error = service.store.apply(&merged).await.expect_err("the key is held");
    assert_eq!(error.kind(), ErrorKind::Contended, "{error:?}");
    assert_all_applied(&service.store.apply(&merged[..1]).await.expect("nobody holds up the innocent"));
    // Another service's transaction that asks for it gives up in time, and can go on.
    let mut other = stranger(&service.database.url).await;
    let waits = other.transaction().await.expect("begun");
    let error = service.store.submit_within(&waits, keyed("other", "k")).await.expect_err("the key is held");
    assert_eq!(error.kind(), ErrorKind::Contended, "{error:?}");
    accepted(service.store.submit_within(&waits, task("goes-on")).await.expect("submitted"));
    waits.commit().await.expect("committed");
    // So it can where its own time limit is over before.
    let hurries = other.transaction().await.expect("begun");
    hurries.batch_execute("SET LOCAL statement_timeout = '200ms'").await.expect("set");
    let error =
        service.store.submit_within(&hurries, keyed("hasty", "k")).await.expect_err("the key is held");
    assert_eq!(error.kind(), ErrorKind::Contended, "{error:?}");
    assert!(error.to_string().contains("the transaction can go on"), "{error}");
    accepted(service.store.submit_within(&hurries, task("goes-on-too")).await.expect("submitted"));
    hurries.commit().await.expect("committed");
    transaction.commit().await.expect("committed");
    let known = persist(&service.store, &merged[1..]).await;
    assert_eq!(stands(&known[0]), "held");
    for goes_on in ["goes-on", "goes-on-too"] {
        assert!(find(&service.store, goes_on).await.is_some());
    }
}

#[tokio::test]
async fn a_transaction_on_another_store_is_refused() {
    let Some(mut service) = Service::open("a_transaction_on_another_store_is_refused").await else { return };
    let Some(elsewhere) = Database::new("a_transaction_on_another_store_is_refused") else { return };
    let other = elsewhere.open().await;
    let transaction = service.client.transaction().await.expect("begun");
    let error = other.submit_within(&transaction, task("lost")).await.expect_err("it is another store");
    assert_eq!(error.kind(), ErrorKind::Broken, "{error:?}");
    transaction.commit().await.expect("a failed transaction ends all the same");
    assert!(find(&service.store, "lost").await.is_none());
    let Outcome::Applied(_) = other.apply(&[put(task("kept"))]).await.expect("applied").remove(0) else {
        panic!("the store itself goes on")
    };
}
