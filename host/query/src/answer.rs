//! An answer as bytes: JSON, lines of JSON, Arrow's stream, CSV. It is written as rows come, and never held as a whole.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::csv::{Writer as CsvWriter, WriterBuilder as CsvBuilder};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::writer::StreamWriter;
use datafusion::arrow::json::writer::{JsonArray, LineDelimited, Writer as JsonWriter, WriterBuilder};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use portolan_foundation::clock;
use serde::{Deserialize, Serialize};

use crate::engine::Rows;
use crate::error::Error;

/// How an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Arrow's streaming format, with types.
    Arrow,
    /// Comma-separated values with a line of names (RFC 4180).
    Csv,
    /// One array of objects.
    #[default]
    Json,
    /// One object a line.
    Ndjson,
}

/// What is known of an answer before its rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// How it is written.
    pub format: Format,
    /// Shards that were left out.
    pub missing: Vec<String>,
}

/// An answer: what is known, and its bytes as they come.
pub struct Answer {
    /// Its bytes. After an error there are none.
    pub body: BoxStream<'static, Result<Bytes, Error>>,
    /// What is known before.
    pub head: Head,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("head", &self.head).finish_non_exhaustive()
    }
}

impl Format {
    /// The media type.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Arrow => "application/vnd.apache.arrow.stream",
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
        }
    }

    /// The first of a client's media types that there is; JSON when it takes anything.
    #[must_use]
    pub fn accepted(accept: &str) -> Option<Self> {
        if accept.trim().is_empty() {
            return Some(Self::Json);
        }
        accept.split(',').find_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let refused = parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
            match kind.as_str() {
                _ if refused => None,
                "application/json" | "application/*" | "*/*" => Some(Self::Json),
                "application/vnd.apache.arrow.stream" => Some(Self::Arrow),
                "application/x-ndjson" | "application/jsonl" => Some(Self::Ndjson),
                "text/csv" | "text/*" => Some(Self::Csv),
                _ => None,
            }
        })
    }
}

/// Writes an answer's rows.
///
/// # Errors
/// When two columns of a JSON answer have one name. What fails later is in the body.
pub fn write(rows: Rows, format: Format) -> Result<Answer, Error> {
    if matches!(format, Format::Json | Format::Ndjson) {
        names_differ(&rows.schema)?;
    }
    let head = Head { format, missing: rows.missing.clone() };
    let encoder = Encoder::new(format, &rows.schema)?;
    let writing = Writing { bytes: 0, encoder: Some(encoder), rows, written: 0 };
    let body = stream::unfold(Some(writing), |writing| async {
        let mut writing = writing?;
        match writing.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(writing))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(Answer { body: body.boxed(), head })
}

fn names_differ(schema: &SchemaRef) -> Result<(), Error> {
    let fields = schema.fields();
    let twice = fields
        .iter()
        .enumerate()
        .find(|(at, field)| fields.iter().take(*at).any(|before| before.name() == field.name()));
    match twice {
        Some((_, field)) => Err(Error::Statement(format!(
            "two columns are called `{}`, which a JSON object cannot have: name one with AS",
            field.name()
        ))),
        None => Ok(()),
    }
}

/// An answer while it is written.
struct Writing {
    bytes: u64,
    /// None once the end is written.
    encoder: Option<Encoder>,
    rows: Rows,
    written: u64,
}

impl Writing {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let limits = self.rows.world.limits.clone();
        loop {
            let Some(encoder) = &mut self.encoder else { return Ok(None) };
            let left = self.rows.world.deadline.since(clock::now());
            let next = tokio::time::timeout(left, self.rows.stream.next()).await;
            let bytes = match next.map_err(|_| Error::Time(limits.time_ms))? {
                Some(batch) => {
                    let batch = batch.map_err(|error| Error::of(&error))?;
                    self.written += u64::try_from(batch.num_rows()).unwrap_or(u64::MAX);
                    encoder.write(&batch)?
                }
                None => {
                    let bytes = encoder.finish()?;
                    self.encoder = None;
                    bytes
                }
            };
            self.bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            if self.written > limits.answer_rows || self.bytes > limits.answer_bytes {
                return Err(Error::Limit(format!(
                    "the answer has more than its limit of {} rows or {} bytes: add LIMIT, or aggregate",
                    limits.answer_rows, limits.answer_bytes
                )));
            }
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
    }
}

/// Bytes that were written and not taken yet.
#[derive(Clone, Debug, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    fn take(&self) -> Bytes {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).into()
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Encoder {
    buffer: Buffer,
    writer: Writer,
}

enum Writer {
    Arrow(Box<StreamWriter<Buffer>>),
    Csv(Box<CsvWriter<Buffer>>),
    Json(JsonWriter<Buffer, JsonArray>),
    Ndjson(JsonWriter<Buffer, LineDelimited>),
}

impl Encoder {
    fn new(format: Format, schema: &SchemaRef) -> Result<Self, Error> {
        let buffer = Buffer::default();
        let json = || WriterBuilder::new().with_explicit_nulls(true);
        let writer = match format {
            Format::Arrow => {
                Writer::Arrow(Box::new(StreamWriter::try_new(buffer.clone(), schema).map_err(failed)?))
            }
            Format::Csv => {
                let mut writer = CsvBuilder::new().with_header(true).build(buffer.clone());
                // The names come also when no row does.
                writer.write(&RecordBatch::new_empty(Arc::clone(schema))).map_err(failed)?;
                Writer::Csv(Box::new(writer))
            }
            Format::Json => Writer::Json(json().build::<_, JsonArray>(buffer.clone())),
            Format::Ndjson => Writer::Ndjson(json().build::<_, LineDelimited>(buffer.clone())),
        };
        Ok(Self { buffer, writer })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<Bytes, Error> {
        match &mut self.writer {
            Writer::Arrow(writer) => writer.write(batch),
            Writer::Csv(writer) => writer.write(batch),
            Writer::Json(writer) => writer.write(batch),
            Writer::Ndjson(writer) => writer.write(batch),
        }
        .map_err(failed)?;
        Ok(self.buffer.take())
    }

    fn finish(&mut self) -> Result<Bytes, Error> {
        match &mut self.writer {
            Writer::Arrow(writer) => writer.finish(),
            Writer::Csv(_) => Ok(()),
            Writer::Json(writer) => writer.finish(),
            Writer::Ndjson(writer) => writer.finish(),
        }
        .map_err(failed)?;
        Ok(self.buffer.take())
    }
}

/// A type that a format cannot write is the statement's matter.
fn failed(error: ArrowError) -> Error {
    Error::Statement(format!("the answer cannot be written in this format: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_media_type_that_there_is_counts() {
        for (accept, wanted) in [
            ("", Some(Format::Json)),
            ("*/*", Some(Format::Json)),
            ("text/html, text/csv;q=0.9", Some(Format::Csv)),
            ("application/x-ndjson", Some(Format::Ndjson)),
            ("application/vnd.apache.arrow.stream, application/json", Some(Format::Arrow)),
            ("application/json;q=0, text/csv", Some(Format::Csv)),
            ("text/html", None),
        ] {
            assert_eq!(Format::accepted(accept), wanted, "{accept}");
        }
    }
}
