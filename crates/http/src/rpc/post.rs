//! Calls in a body: one, or a batch.

use super::args;
use super::methods::{self, Method};
use super::{BATCH_BYTES, MAX_BATCH, Reply, Rpc, RpcError, error_reply, success};
use crate::json::{Json, Request, requests};

/// The answers to a body's calls.
struct Answers {
    each: Vec<Json>,
    bytes: usize,
    cacheable: bool,
    succeeded: bool,
}

impl Answers {
    fn add(&mut self, answer: Json) {
        self.bytes += answer.len();
        self.each.push(answer);
    }

    fn add_error(&mut self, error: &RpcError, id: &str) {
        (self.cacheable, self.succeeded) = (false, false);
        self.add(error.answer(Some(id)));
    }
}

impl Rpc {
    /// All calls in a body. Blocks.
    pub(crate) fn by_body(&self, body: &[u8]) -> Reply {
        let requests = match requests(body, self.whole_ids()) {
            Ok(requests) => requests,
            Err(why) => return error_reply(500, &RpcError::parse(&why), None),
        };
        if requests.len() > MAX_BATCH {
            let why =
                format!("batch request exceeds maximum ({MAX_BATCH}) allowed number of requests");
            return error_reply(200, &RpcError::invalid_request(why), None);
        }
        let mut answers = Answers {
            each: Vec::new(),
            bytes: 0,
            cacheable: true,
            succeeded: true,
        };
        for request in &requests {
            // A notification is not even carried out: all calls read only.
            if let Some(id) = &request.id {
                self.one(&mut answers, request, id);
            }
        }
        let body = match answers.each.len() {
            // A batch of one is answered by an object, as in CometBFT.
            0 | 1 => answers.each.pop().unwrap_or_default(),
            _ => {
                let mut body = Json::new();
                body.list(answers.each, |body, answer| {
                    body.append(answer);
                });
                body
            }
        };
        Reply {
            status: 200,
            cacheable: answers.cacheable && !body.is_empty(),
            succeeded: answers.succeeded,
            body,
        }
    }

    fn one(&self, answers: &mut Answers, request: &Request, id: &str) {
        let Some((index, method)) = methods::find(&request.method) else {
            self.tally.count(None, false);
            return answers.add_error(&RpcError::no_method(), id);
        };
        // Checked before the call: the answer that goes over the bound is the last one made.
        let result = if answers.bytes > BATCH_BYTES {
            Err(RpcError::internal("the answers of this batch are too long"))
        } else {
            self.with_params(method, request)
        };
        self.tally.count(Some(index), result.is_ok());
        match result {
            Ok((answer, cacheable)) => {
                answers.cacheable &= cacheable;
                answers.add(success(id, answer));
            }
            Err(error) => answers.add_error(&error, id),
        }
    }

    fn with_params(&self, method: &Method, request: &Request) -> Result<(Json, bool), RpcError> {
        // Without `params` all arguments are their defaults, where the stock
        // node panics (`rpc.md` 1).
        let given = request.params.as_ref().map_or("{}", |params| params.get());
        let args = args::from_json(method.params, given)
            .map_err(|why| RpcError::invalid_params("json", &why))?;
        self.call(method, &args)
    }
}
