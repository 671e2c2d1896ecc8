//! A task message that is sent once more, for another try: the same bytes where nothing has changed.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;

use super::{
    cost::Cost,
    json::{Json, Map},
    publish::{Packed, Publisher, TaskMessage, To},
    python_json, repr,
    request::Request,
    signature::Signature,
    time,
};

impl Request {
    /// The message that tries this task once more: the same id, arguments and workflow, `retries` as
    /// given, not before `eta`. It goes to the queue that it was sent to.
    pub fn again(
        &self,
        retries: u32,
        eta: Option<Timestamp>,
        by: &mut Publisher<'_>,
    ) -> TaskMessage {
        let mut headers = self.headers.clone();
        headers.set("retries", Json::number(retries));
        headers.set("eta", Json::optional(eta.map(time::print).as_deref()));
        let queue = self.queue().unwrap_or_else(|| by.route(&self.task).to_owned());
        let mut properties = self.properties.clone();
        if let Some(expires) = self.expires {
            let left = expires.duration_since(by.now).as_millis().max(0);
            properties.set("expiration", Json::string(&left.to_string()));
        }
        let to = To {
            id: self.id.clone(),
            task: self.task.clone(),
            queue,
            eta,
            priority: self.priority,
            follow: Cost::of(self),
        };
        let base64 = self.wire.base64;
        let body = if let Some((body, content_type, content_encoding)) = &self.wire.body {
            let encoding = properties.string("body_encoding");
            let body = match (encoding.as_deref(), body.as_string()) {
                (Some("base64"), _) | (_, None) => body.clone(),
                (_, Some(text)) => Json::string(&BASE64_STANDARD.encode(text)),
            };
            let (content_type, content_encoding) = (content_type.clone(), content_encoding.clone());
            Packed { body, content_type, content_encoding, base64 }
        } else {
            headers = headers.in_second_protocol(self);
            Packed {
                body: Json::string(&BASE64_STANDARD.encode(self.content())),
                content_type: Json::string(lovage_core::media_type::JSON),
                content_encoding: Json::string("utf-8"),
                base64,
            }
        };
        by.finish(to, &headers, properties, &body)
    }

    /// The body of protocol 2, written anew.
    fn content(&self) -> String {
        let list = |list: &[Signature]| match list {
            [] => Json::null(),
            list => Signature::list(list),
        };
        let embed = Map::from_iter([
            ("callbacks", list(&self.callbacks)),
            ("errbacks", list(&self.errbacks)),
            ("chain", list(&self.chain)),
            ("chord", self.chord.as_ref().map_or_else(Json::null, Signature::json)),
        ]);
        let parts = [Json::list(&self.args), self.kwargs.clone().into(), embed.into()];
        python_json::write(Json::list(&parts).text().to_owned())
    }
}

impl Map {
    /// The headers that protocol 2 wants, where they came in protocol 1.
    fn in_second_protocol(mut self, request: &Request) -> Self {
        if !self.contains("lang") {
            self.set("lang", Json::string("py"));
        }
        self.set("root_id", Json::string(request.root()));
        self.set("argsrepr", Json::string(&repr::tuple(&request.args)));
        self.set("kwargsrepr", Json::string(&repr::dict(&request.kwargs)));
        self
    }
}
