//! Results in `DynamoDB`, as Celery's `DynamoDB` backend keeps them: items of a table with the key
//! `id`, and `result` (binary), `timestamp`, and `ttl` where results expire.

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use aws_config::{BehaviorVersion, timeout::TimeoutConfig};
use aws_sdk_dynamodb::{
    Client,
    config::{Credentials, Region},
    error::{ProvideErrorMetadata, SdkError},
    primitives::Blob,
    types::{
        AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ReturnValue,
        ScalarAttributeType, TableStatus,
    },
};
use bytes::Bytes;
use futures_util::future::try_join_all;
use jiff::Timestamp;
use tokio::sync::OnceCell;

use super::{
    Complete, Counted, Keys, PROBE_ID, PROBE_META, Part, ResultStore, StoreError, check_group,
};
use lovage_celery::{keys, meta::read_group};
use lovage_config::DynamoDbUrl;
use lovage_core::{dependency::Probe, job::JobKey};

/// How long to wait for a table that was made.
const PATIENCE: Duration = Duration::from_mins(1);
/// How many items are asked for at once.
const AT_ONCE: usize = 32;

/// How stored ends begin: as Python prints JSON, and without blanks. Successes come first.
const ENDS: [(&str, &str); 6] = [
    (":done1", r#"{"status": "SUCCESS""#),
    (":done2", r#"{"status":"SUCCESS""#),
    (":end1", r#"{"status": "FAILURE""#),
    (":end2", r#"{"status":"FAILURE""#),
    (":end3", r#"{"status": "REVOKED""#),
    (":end4", r#"{"status":"REVOKED""#),
];

/// The attributes: Celery's, and one of ours beside a chord's count.
const ID: &str = "id";
const RESULT: &str = "result";
const TIMESTAMP: &str = "timestamp";
const TTL: &str = "ttl";
const COUNT: &str = "chord_count";
const COUNTED: &str = "lovage_counted";
const TENANT: &str = "lovage_tenant";

/// How long a call may take with all its retries, and one attempt of it: a table that does not
/// answer is away.
const CALL: Duration = Duration::from_secs(8);
const ATTEMPT: Duration = Duration::from_secs(3);

/// Results in a table of `DynamoDB`.
#[derive(Debug)]
pub struct DynamoResults {
    place: DynamoDbUrl,
    keys: Keys,
    client: OnceCell<Client>,
}

impl DynamoResults {
    /// Results in the table that a URL in Celery's form names:
    /// `dynamodb://[KEY:SECRET@]REGION[:PORT]/[TABLE][?ttl_seconds=N]`. A region that is `localhost`
    /// or an address means a `DynamoDB` that runs there, at that port. Credentials that it does not
    /// name are found as every AWS tool finds them. `Err` says what is wrong, without the URL.
    pub fn new(url: &str, keys: Keys) -> Result<Self, String> {
        Ok(Self { place: DynamoDbUrl::parse(url)?, keys, client: OnceCell::new() })
    }

    /// A key as Celery's `DynamoDB` backend has it: a Python byte string as it is printed.
    fn key(&self, tenant: &str, key: &str) -> String {
        format!("b'{}'", self.keys.prefix.key(tenant, key))
    }

    /// The key of a revocation. What holds for every tenant stands under the key of none.
    fn revocation(&self, tenant: Option<&str>, task: &str) -> String {
        let tenant = tenant.filter(|tenant| !tenant.is_empty());
        let key = keys::revoked(tenant, task);
        match tenant {
            None => key,
            Some(tenant) => self.key(tenant, &key),
        }
    }

    /// The client, with a table that is there: made where it is not, as Celery does.
    async fn client(&self) -> Result<&Client, StoreError> {
        self.client
            .get_or_try_init(async || {
                let DynamoDbUrl { region, endpoint, credentials, .. } = &self.place;
                let timeouts = TimeoutConfig::builder()
                    .operation_timeout(CALL)
                    .operation_attempt_timeout(ATTEMPT)
                    .build();
                let mut loader = aws_config::defaults(BehaviorVersion::latest());
                loader = loader.timeout_config(timeouts);
                if let Some(region) = region {
                    loader = loader.region(Region::new(region.clone()));
                }
                if let Some(endpoint) = endpoint {
                    loader = loader.endpoint_url(endpoint);
                }
                if let Some((id, secret)) = credentials {
                    let given =
                        Credentials::new(id, &*secret.0, None, None, "celery.result_backend");
                    loader = loader.credentials_provider(given);
                }
                let found = loader.load().await;
                let client = if credentials.is_some() {
                    Client::new(&found)
                } else {
                    let (found, renewing) = lovage_aws::renewing(found);
                    let config = aws_sdk_dynamodb::config::Builder::from(&found);
                    Client::from_conf(config.retry_classifier(renewing).build())
                };
                self.table(&client).await?;
                Ok(client)
            })
            .await
    }

    async fn table(&self, client: &Client) -> Result<(), StoreError> {
        let table = &self.place.table;
        let mut waited = Duration::ZERO;
        let mut made = false;
        loop {
            match client.describe_table().table_name(table).send().await {
                Ok(found) => {
                    let status = found.table.and_then(|table| table.table_status);
                    if status
                        .is_none_or(|it| it == TableStatus::Active || it == TableStatus::Updating)
                    {
                        return Ok(());
                    }
                }
                Err(error) if code(&error) == Some("ResourceNotFoundException") && !made => {
                    made = true;
                    self.make(client).await?;
                    continue;
                }
                Err(error) if code(&error) == Some("ResourceNotFoundException") => {}
                Err(error) => return Err(self.refused("dynamodb:DescribeTable", &error)),
            }
            if waited >= PATIENCE {
                let reason = "it is not ready after a minute".to_owned();
                return Err(self.failed(&reason));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            waited += Duration::from_millis(500);
        }
    }

    async fn make(&self, client: &Client) -> Result<(), StoreError> {
        let wrong = |error: aws_sdk_dynamodb::error::BuildError| self.failed(&error.to_string());
        let key = KeySchemaElement::builder().attribute_name(ID).key_type(KeyType::Hash);
        let attribute = AttributeDefinition::builder()
            .attribute_name(ID)
            .attribute_type(ScalarAttributeType::S);
        let made = client
            .create_table()
            .table_name(&self.place.table)
            .key_schema(key.build().map_err(wrong)?)
            .attribute_definitions(attribute.build().map_err(wrong)?)
            .billing_mode(BillingMode::PayPerRequest)
            .send()
            .await;
        match made {
            Ok(_) => Ok(()),
            // Somebody else was faster.
            Err(error) if code(&error) == Some("ResourceInUseException") => Ok(()),
            Err(error) => Err(self.refused("dynamodb:CreateTable", &error)),
        }
    }

    /// An item with what all have, and its tenant's mark.
    fn item(&self, tenant: &str, key: &str) -> HashMap<String, AttributeValue> {
        let now = Timestamp::now();
        #[allow(clippy::cast_precision_loss, reason = "as Python prints a time")]
        let seconds = now.as_millisecond() as f64 / 1000.0;
        let mut item = HashMap::from([
            (ID.to_owned(), AttributeValue::S(key.to_owned())),
            (TIMESTAMP.to_owned(), AttributeValue::N(seconds.to_string())),
        ]);
        if let Some(tenant) = self.keys.mark(tenant) {
            item.insert(TENANT.to_owned(), AttributeValue::S(tenant.to_owned()));
        }
        if let Some(ttl) = self.place.ttl {
            let until = now.as_second().saturating_add_unsigned(ttl);
            item.insert(TTL.to_owned(), AttributeValue::N(until.to_string()));
        }
        item
    }

    /// Puts an item, unless it is another tenant's.
    async fn set(
        &self,
        tenant: &str,
        key: &str,
        name: &str,
        value: AttributeValue,
    ) -> Result<(), StoreError> {
        let mut item = self.item(tenant, key);
        item.insert(name.to_owned(), value);
        let put = self.client().await?.put_item().table_name(&self.place.table);
        let put = put
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(#tenant) OR #tenant = :tenant")
            .expression_attribute_names("#tenant", TENANT)
            .expression_attribute_values(":tenant", AttributeValue::S(tenant.to_owned()))
            .send()
            .await;
        match put {
            Ok(_) => Ok(()),
            Err(error) if code(&error) == Some("ConditionalCheckFailedException") => {
                Err(StoreError::OtherTenants)
            }
            Err(error) => Err(self.refused("dynamodb:PutItem", &error)),
        }
    }

    async fn read(&self, key: &str) -> Result<Option<HashMap<String, AttributeValue>>, StoreError> {
        let get = self.client().await?.get_item().table_name(&self.place.table);
        let get = get.key(ID, AttributeValue::S(key.to_owned())).consistent_read(true);
        let found = get.send().await;
        Ok(found.map_err(|error| self.refused("dynamodb:GetItem", &error))?.item)
    }

    /// The value of an item that is the tenant's, or has no mark: Celery's own workers know no
    /// tenants.
    async fn value(&self, tenant: &str, key: &str) -> Result<Option<Bytes>, StoreError> {
        let Some(mut item) = self.read(key).await? else { return Ok(None) };
        if is_others(&item, tenant) {
            return Err(StoreError::OtherTenants);
        }
        Ok(match item.remove(RESULT) {
            Some(AttributeValue::B(blob)) => Some(blob.into_inner().into()),
            Some(AttributeValue::S(text)) => Some(text.into()),
            _ => None,
        })
    }

    fn refused<E: ProvideErrorMetadata, R: std::fmt::Debug>(
        &self,
        action: &str,
        error: &SdkError<E, R>,
    ) -> StoreError {
        let said = match (error.code(), error.message()) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(code), None) => code.to_owned(),
            _ => match error {
                SdkError::TimeoutError(_) => "no answer in time".to_owned(),
                SdkError::DispatchFailure(failure) => format!(
                    "it cannot be reached{}",
                    failure.as_connector_error().map_or(String::new(), |it| format!(": {it}"))
                ),
                _ => "an answer that is not understood".to_owned(),
            },
        };
        match error.code() {
            // It is about what was asked; all else is about who asks, and when.
            Some("ValidationException" | "ItemCollectionSizeLimitExceededException") => {
                StoreError::Refused(self.told(&format!("{action}: {said}")))
            }
            _ => self.failed(&format!("{action}: {said}")),
        }
    }

    fn failed(&self, reason: &str) -> StoreError {
        StoreError::Away(self.told(reason))
    }

    fn told(&self, reason: &str) -> String {
        format!("the result store, table `{}` of DynamoDB: {reason}", self.place.table)
    }
}

/// Returns true if an item has the mark of another tenant.
fn is_others(item: &HashMap<String, AttributeValue>, tenant: &str) -> bool {
    match item.get(TENANT) {
        Some(AttributeValue::S(owner)) => owner != tenant,
        _ => false,
    }
}

fn code<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> Option<&str> {
    error.code()
}

#[async_trait]
impl Probe for DynamoResults {
    /// Stores a value as results are stored, so that whatever would refuse those refuses this.
    async fn probe(&self) -> Result<(), String> {
        let (key, value) = (self.key("", &keys::task(PROBE_ID)), Blob::new(PROBE_META));
        let set = self.set("", &key, RESULT, AttributeValue::B(value)).await;
        set.map_err(|error| error.to_string())
    }
}

#[async_trait]
impl ResultStore for DynamoResults {
    async fn put(&self, job: JobKey<'_>, meta: Bytes) -> Result<bool, StoreError> {
        let key = self.key(job.tenant, &keys::task(job.id));
        let mut item = self.item(job.tenant, &key);
        item.insert(RESULT.to_owned(), AttributeValue::B(Blob::new(meta)));
        // An end without a mark is no tenant's to write over: it is of a job without one, or of
        // Celery's own worker.
        let (kept, owner) = if job.tenant.is_empty() {
            (2, "attribute_not_exists(#tenant) OR #tenant = :tenant")
        } else {
            (ENDS.len(), "#tenant = :tenant OR attribute_not_exists(#tenant)")
        };
        let begins: Vec<_> = ENDS
            .iter()
            .enumerate()
            .take(kept)
            .map(|(place, (name, _))| {
                let unmarked = "attribute_not_exists(#tenant) AND ";
                let only = if place < 2 { "" } else { unmarked };
                format!("({only}begins_with(#result, {name}))")
            })
            .collect();
        let condition = format!(
            "attribute_not_exists(#result) OR (({owner}) AND NOT ({}))",
            begins.join(" OR ")
        );
        let put = self.client().await?.put_item().table_name(&self.place.table);
        let mut put = put
            .set_item(Some(item))
            .condition_expression(condition)
            .expression_attribute_names("#result", RESULT)
            .expression_attribute_names("#tenant", TENANT)
            .expression_attribute_values(":tenant", AttributeValue::S(job.tenant.to_owned()));
        for (name, begin) in ENDS.iter().take(kept) {
            let value = AttributeValue::B(Blob::new(*begin));
            put = put.expression_attribute_values(*name, value);
        }
        match put.send().await {
            Ok(_) => Ok(true),
            Err(error) if code(&error) == Some("ConditionalCheckFailedException") => {
                let item = self.read(&key).await?.unwrap_or_default();
                let unmarked = !item.contains_key(TENANT) && !job.tenant.is_empty();
                let others = unmarked || is_others(&item, job.tenant);
                if others { Err(StoreError::OtherTenants) } else { Ok(false) }
            }
            Err(error) => Err(self.refused("dynamodb:PutItem", &error)),
        }
    }

    async fn get(&self, tenant: &str, tasks: &[String]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let mut found = Vec::with_capacity(tasks.len());
        for some in tasks.chunks(AT_ONCE) {
            let keys: Vec<_> =
                some.iter().map(|task| self.key(tenant, &keys::task(task))).collect();
            let read = async |key: &String| match self.value(tenant, key).await {
                Err(StoreError::OtherTenants) => Ok(None),
                other => other,
            };
            found.extend(try_join_all(keys.iter().map(read)).await?);
        }
        Ok(found)
    }

    async fn begin_chord(
        &self,
        group: JobKey<'_>,
        result: Bytes,
        _: bool,
    ) -> Result<(), StoreError> {
        check_group(group.id)?;
        let key = self.key(group.tenant, &keys::group(group.id));
        let result = AttributeValue::B(Blob::new(result));
        self.set(group.tenant, &key, RESULT, result).await?;
        let none = AttributeValue::N("0".to_owned());
        let key = self.key(group.tenant, &keys::chord_counter(group.id));
        self.set(group.tenant, &key, COUNT, none).await
    }

    /// Its parts say it.
    async fn chord_size(&self, _: JobKey<'_>, _: u64) -> Result<(), StoreError> {
        Ok(())
    }

    async fn end_part(&self, part: Part<'_>) -> Result<Counted, StoreError> {
        check_group(part.group)?;
        // Where it is gone, the chord was gone on with.
        let group = self.key(part.tenant, &keys::group(part.group));
        let Some(group) = self.value(part.tenant, &group).await? else {
            return Ok(Counted::Waits);
        };
        let size = part.size.or_else(|| {
            let results = read_group(&group)?;
            Some(results.children?.len() as u64)
        });
        let key = self.key(part.tenant, &keys::chord_counter(part.group));
        let place = part.index.map_or_else(String::new, |index| index.to_string());
        let member = format!("{}:{place}", part.task);
        let update = self.client().await?.update_item().table_name(&self.place.table);
        let counted = update
            .key(ID, AttributeValue::S(key.clone()))
            .update_expression(
                "SET #count = if_not_exists(#count, :none) + :one, #tenant = :tenant \
                 ADD #counted :part",
            )
            .condition_expression(
                "(attribute_not_exists(#tenant) OR #tenant = :tenant) AND \
                 (attribute_not_exists(#counted) OR NOT contains(#counted, :id))",
            )
            .expression_attribute_names("#count", COUNT)
            .expression_attribute_names("#counted", COUNTED)
            .expression_attribute_names("#tenant", TENANT)
            .expression_attribute_values(":none", AttributeValue::N("0".to_owned()))
            .expression_attribute_values(":one", AttributeValue::N("1".to_owned()))
            .expression_attribute_values(":part", AttributeValue::Ss(vec![member.clone()]))
            .expression_attribute_values(":id", AttributeValue::S(member))
            .expression_attribute_values(":tenant", AttributeValue::S(part.tenant.to_owned()))
            .return_values(ReturnValue::UpdatedNew)
            .send()
            .await;
        let item = match counted {
            Ok(updated) => updated.attributes,
            // It was counted before, and its message came again; or the chord is another's.
            Err(error) if code(&error) == Some("ConditionalCheckFailedException") => {
                let item = self.read(&key).await?;
                if item.as_ref().is_some_and(|item| is_others(item, part.tenant)) {
                    return Err(StoreError::OtherTenants);
                }
                item
            }
            Err(error) => return Err(self.refused("dynamodb:UpdateItem", &error)),
        };
        let count = item.and_then(|mut item| item.remove(COUNT));
        let count: Option<u64> = match count {
            Some(AttributeValue::N(count)) => count.parse().ok(),
            _ => None,
        };
        if count.is_none() || count != size {
            return Ok(Counted::Waits);
        }
        let (parts, claim) = (Vec::new(), String::new());
        Ok(Counted::Complete(Complete { parts, group: Some(group), claim }))
    }

    async fn end_chord(&self, group: JobKey<'_>, _: &str) -> Result<(), StoreError> {
        // The count stays for as long as items do: a part that comes once more finds no group.
        let delete = self.client().await?.delete_item().table_name(&self.place.table);
        let key = self.key(group.tenant, &keys::group(group.id));
        let delete = delete.key(ID, AttributeValue::S(key)).send().await;
        delete.map(drop).map_err(|error| self.refused("dynamodb:DeleteItem", &error))
    }

    async fn revoke(&self, tenant: Option<&str>, tasks: &[String]) -> Result<(), StoreError> {
        let mark = || AttributeValue::B(Blob::new("1"));
        for task in tasks {
            let owner = tenant.unwrap_or_default();
            self.set(owner, &self.revocation(tenant, task), RESULT, mark()).await?;
        }
        Ok(())
    }

    async fn is_revoked(&self, job: JobKey<'_>) -> Result<bool, StoreError> {
        let keys = [None, Some(job.tenant).filter(|tenant| !tenant.is_empty())];
        let own = usize::from(!job.tenant.is_empty());
        let keys: Vec<_> =
            keys.iter().take(1 + own).map(|tenant| self.revocation(*tenant, job.id)).collect();
        let found = try_join_all(keys.iter().map(|key| self.read(key))).await?;
        Ok(found.iter().any(Option::is_some))
    }
}
