//! What clients ask of the server, again and again until there is an answer; and what the oracle must know of it.

use steadfast::TaskId;
use steadfast_server::request::TaskRequest;
use steadfast_server::wire::{CancelledJson, SubmittedJson};
use steadfast_sim::history::{Event, SubmitAnswer};

use super::client::{Answer, Client};

impl Client {
    /// Posts until there is an answer other than that the store can't be reached.
    pub(super) async fn post_until_answered(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut tries = 0;
        loop {
            match self.post(path, headers, body).await {
                Ok(answer) if answer.status != 503 => {
                    if tries > 0 {
                        self.notes.reach("a request was repeated");
                    }
                    return answer;
                }
                Ok(_) | Err(_) => tries += 1,
            }
            self.rest().await;
        }
    }

    /// Submits a task of this id until it is accepted. `more` are further fields, each after a comma.
    pub(super) async fn submit(&self, id: &str, more: &str) -> SubmittedJson {
        let task = TaskId::trusted(id);
        self.world.record(Event::Submitting { task: task.clone() });
        let body = format!(r#"{{"kind":"work","id":"{id}","payload":"{id}","attempts":2{more}}}"#);
        // As the command line writes it.
        let body = TaskRequest::from_json(body.as_bytes()).expect("it is a request").to_json();
        let answer = self.post_until_answered("/v1/tasks", &[], &body).await;
        assert!(matches!(answer.status, 200 | 201), "{id} was answered {}", answer.status);
        let submitted: SubmittedJson = answer.json();
        let told = SubmitAnswer::Accepted(TaskId::trusted(submitted.id.as_str()));
        self.world.record(Event::Submitted { task, answer: told });
        submitted
    }

    /// Submits a task with a key until it is accepted. Its id is made by the server.
    pub(super) async fn submit_keyed(&self, key: &str, in_header: bool) -> SubmittedJson {
        let (headers, body) = keyed(key, in_header);
        self.submit_as(key, &headers, &body).await
    }

    /// As the client of a server that drops keys: the request goes without one.
    pub(super) async fn submit_unkeyed(&self, key: &str) -> SubmittedJson {
        self.submit_as(key, &[], &keyed(key, true).1).await
    }

    async fn submit_as(&self, key: &str, headers: &[(&str, String)], body: &str) -> SubmittedJson {
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, key)| (*name, key.as_str())).collect();
        let answer = self.post_until_answered("/v1/tasks", &headers, body).await;
        assert!(matches!(answer.status, 200 | 201), "{key} was answered {}", answer.status);
        let submitted: SubmittedJson = answer.json();
        assert_eq!(submitted.new, answer.status == 201, "{submitted:?}");
        assert_eq!(answer.headers["location"], format!("/v1/tasks/{}", submitted.id));
        let task = TaskId::trusted(submitted.id.as_str());
        self.world.record(Event::Submitting { task: task.clone() });
        self.world.record(Event::Submitted { task: task.clone(), answer: SubmitAnswer::Accepted(task) });
        submitted
    }

    /// Cancels a task until there is an answer; says its word, which is `too_late` where it had ended otherwise.
    pub(super) async fn cancel(&self, id: &str) -> String {
        let path = format!("/v1/tasks/{id}/cancel");
        let answer = self.post_until_answered(&path, &[], r#"{"reason":"no longer needed"}"#).await;
        let acknowledged = answer.status == 200;
        self.world.record(Event::Cancelled { task: TaskId::trusted(id), acknowledged });
        if acknowledged {
            let cancelled: CancelledJson = answer.json();
            return cancelled.cancel;
        }
        assert_eq!((answer.status, answer.problem().as_str()), (409, "had_ended"), "cancelling {id}");
        "too_late".into()
    }
}

/// A submit with a key, in its header or in the body.
pub(super) fn keyed(key: &str, in_header: bool) -> (Vec<(&'static str, String)>, String) {
    if in_header {
        let body = format!(r#"{{"kind":"work","payload":"key {key}","attempts":2}}"#);
        return (vec![("idempotency-key", key.to_owned())], body);
    }
    let body = format!(r#"{{"kind":"work","payload":"key {key}","key":"{key}","attempts":2}}"#);
    (Vec::new(), body)
}
