//! Where PostgreSQL is: `DATABASE_URL` as a URL or as libpq's words, and what to do when it is not there. Passwords are
//! never shown.

use std::fmt;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use tocsin_base::key_values::key_values;
use tokio::time::timeout;

use super::ACQUIRE_TIMEOUT;
use crate::StoreError;

/// What may be written, for messages.
const FORMS: &str = "postgres://USER:PASSWORD@HOST:PORT/DATABASE or user=… password=… dbname=… host=… port=… sslmode=…";

/// SQLSTATEs of a server that is starting, stopping, or has no connection left (PostgreSQL's manual, appendix A).
const STARTING: [&str; 4] = ["57P01", "57P02", "57P03", "53300"];

/// Where a PostgreSQL database is, and the user to log in as.
#[derive(Clone)]
pub struct DatabaseUrl(Box<PgConnectOptions>);

impl DatabaseUrl {
    /// Reads a URL, or libpq's `key=value` words. What is missing comes from `PGHOST` and its like, as in libpq. The
    /// error says what is wrong, and no value that may be secret.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let options: PgConnectOptions = if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            text.parse().map_err(|error| format!("{}; give {FORMS}", cause(error)))?
        } else if text.contains("://") {
            return Err(format!("it is no URL of a PostgreSQL; give {FORMS}"));
        } else {
            from_key_values(text)?
        };
        let named = options.get_application_name().is_some();
        Ok(Self(Box::new(if named { options } else { options.application_name("tocsin") })))
    }

    pub(super) fn options(&self) -> &PgConnectOptions {
        &self.0
    }

    /// The same server and user, another database.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn with_database(&self, database: &str) -> Self {
        Self(Box::new(self.options().clone().database(database)))
    }

    /// The same database, where a proxy listens for it.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn at_port(&self, port: u16) -> Self {
        Self(Box::new(self.options().clone().host("127.0.0.1").port(port)))
    }

    fn database(&self) -> &str {
        // As libpq has it: the user's own.
        self.0.get_database().unwrap_or(self.0.get_username())
    }

    pub(super) fn server(&self) -> String {
        match self.0.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", self.0.get_host(), self.0.get_port()),
        }
    }
}

/// Without the password.
impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} as {}", self.database(), self.server(), self.0.get_username())
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

/// Connects once, and says what to do where that fails: a pool would only say that it has waited.
pub(super) async fn check(url: &DatabaseUrl) -> Result<(), StoreError> {
    let connected = timeout(ACQUIRE_TIMEOUT, url.0.connect()).await;
    let error = match connected {
        Ok(Ok(connection)) => return Ok(connection.close().await?),
        Ok(Err(error)) => error,
        Err(_) => {
            let seconds = ACQUIRE_TIMEOUT.as_secs();
            return Err(StoreError::Away(format!("PostgreSQL at {} does not answer within {seconds} s", url.server())));
        }
    };
    let advice = advice(url, &error);
    // What is not wrong with the URL passes.
    Err(match &error {
        sqlx::Error::Io(_) => StoreError::Away(advice),
        error if code(error).is_some_and(|code| STARTING.contains(&code.as_str())) => StoreError::Away(advice),
        _ => StoreError::Open(advice),
    })
}

fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned())
}

fn advice(url: &DatabaseUrl, error: &sqlx::Error) -> String {
    let (server, user, database) = (url.server(), url.0.get_username(), url.database());
    match (code(error).as_deref(), error) {
        (Some("3D000"), _) => format!(
            "PostgreSQL at {server} has no database {database:?}; create it (createdb -U {user} {database}), or correct \
             DATABASE_URL"
        ),
        (Some("28P01" | "28000"), error) => format!(
            "PostgreSQL at {server} does not let {user:?} in ({error}); correct user and password in DATABASE_URL, or \
             the server's pg_hba.conf"
        ),
        (_, sqlx::Error::Io(error)) => format!(
            "PostgreSQL at {server} cannot be reached ({error}); start it, or correct host and port in DATABASE_URL"
        ),
        (_, sqlx::Error::Tls(error)) => format!(
            "PostgreSQL at {server} and this program found no common TLS ({error}); see sslmode and sslrootcert in \
             DATABASE_URL"
        ),
        (_, error) => format!("PostgreSQL at {server} refuses the database {database:?}: {error}"),
    }
}

fn cause(error: sqlx::Error) -> String {
    match error {
        sqlx::Error::Configuration(cause) => cause.to_string(),
        other => other.to_string(),
    }
}

fn from_key_values(text: &str) -> Result<PgConnectOptions, String> {
    let pairs = key_values(text, FORMS)?;
    if pairs.is_empty() {
        return Err(format!("is empty; give {FORMS}"));
    }
    let mut options = PgConnectOptions::new();
    for (key, value) in pairs {
        let wrong = |why: String| format!("{key} {why}");
        options = match key.as_str() {
            "host" if value.starts_with('/') => options.socket(&value),
            "host" | "hostaddr" => options.host(&value),
            "port" => options.port(value.parse().map_err(|_| wrong("is not a port number".into()))?),
            "user" => options.username(&value),
            "password" => options.password(&value),
            "dbname" => options.database(&value),
            "sslmode" => options.ssl_mode(value.parse().map_err(|error| wrong(format!(": {}", cause(error))))?),
            "sslrootcert" => options.ssl_root_cert(&value),
            "sslcert" => options.ssl_client_cert(&value),
            "sslkey" => options.ssl_client_key(&value),
            "application_name" => options.application_name(&value),
            // Not libpq's, but Go's drivers take it, and their strings are copied.
            "TimeZone" => options.options([("TimeZone", value)]),
            _ => return Err(format!("{key:?} is not known here; give {FORMS}")),
        };
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn parse(text: &str, server: &str, user: &str, database: &str) {
        let url = DatabaseUrl::parse(text).unwrap();
        assert_eq!((url.server().as_str(), url.0.get_username(), url.database()), (server, user, database), "{text}");
        let shown = format!("{url} {url:?}");
        assert!(!shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn urls_and_words_are_understood() {
        parse("postgres://u:s3cret@db.example:6000/market?sslmode=require", "db.example:6000", "u", "market");
        parse("postgresql://u@h:1", "h:1", "u", "u");
        parse("user=u password=s3cret dbname=market host=h port=6000 sslmode=disable", "h:6000", "u", "market");
        parse(r"host = h  port=1 user='a b' password='s3cret\' \\' dbname=d TimeZone=Asia/Shanghai", "h:1", "a b", "d");
        parse("host=/run/postgresql user=u dbname=d", "/run/postgresql", "u", "d");
    }

    #[track_caller]
    fn refuse(text: &str, names: &str) {
        let error = DatabaseUrl::parse(text).unwrap_err();
        assert!(error.contains(names) && !error.contains("s3cret"), "{text}: {error}");
    }

    #[test]
    fn what_is_wrong_is_named_and_secrets_are_not() {
        refuse("", "is empty");
        refuse("localhost:5432", "word 1");
        refuse("host=h port=many", "port is not");
        refuse("host=h password=my s3cret", "word 3");
        refuse("host=h password=my s3cret dbname=d", "word 3");
        refuse("host=h password='s3cret", "quote of password");
        refuse("host=h colour=s3cret", "colour");
        refuse("host=h sslmode=perhaps", "sslmode");
        refuse("postgres://u:s3cret@h:port/d", "give postgres://");
        refuse("mysql://u:s3cret@h/d", "no URL of a PostgreSQL");
    }
}
