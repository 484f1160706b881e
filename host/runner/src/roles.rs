//! The login roles of third parties' plugins: what they need, what makes them, and that they have nothing more.
//!
//! What a role may do follows from the workflow's grants, and is decided here once: [`script`] says it in SQL, for a DBA
//! or for the private server, where the host runs it; [`ready`] holds it against what the server says the role can do.
//! A role has no memberships and owns nothing, so all that it can do stands in access lists, its own and PUBLIC's.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use stepwell_sandbox::Digest;
use stepwell_sql::{TableName, quote_ident, quote_literal};
use stepwell_warehouse::{Access, Answer, AnswerLimits, Param, Session, Target, WarehouseError};
use stepwell_workflow::{
    Login as WrittenLogin, PluginEntry, PluginKind, StatementGrant, Trust, Workflow,
};

use crate::connect;
use crate::error::{Problem, RunError};
use crate::run::RunOptions;

/// Sessions that a role may have at once: steps side by side, and old ones that are about to end.
const CONNECTIONS: u32 = 10;

/// Functions of the catalog that PUBLIC may call, and that leave or send something which no transaction takes back or no
/// table shows: notifications, messages in the log that replicas read, large objects, advisory locks. Where the site
/// allows, nobody but superusers should have them.
const FUNCTIONS: [&str; 15] = [
    "pg_notify",
    "pg_logical_emit_message",
    "lo_creat",
    "lo_create",
    "lo_from_bytea",
    "lo_put",
    "lowrite",
    "pg_advisory_lock",
    "pg_advisory_lock_shared",
    "pg_advisory_xact_lock",
    "pg_advisory_xact_lock_shared",
    "pg_try_advisory_lock",
    "pg_try_advisory_lock_shared",
    "pg_try_advisory_xact_lock",
    "pg_try_advisory_xact_lock_shared",
];

/// A third party's plugin and how it logs in.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    pub(crate) plugin: String,
    pub(crate) role: String,
    pub(crate) target: Target,
}

/// The logins of a workflow, by the name of the plugin.
pub(crate) type Logins = BTreeMap<String, Login>;

/// Something that a role can do and should not, or the other way round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What: `may SELECT from table core.secret`.
    pub what: String,
    /// The statement that mends it, where there is one.
    pub mend: Option<String>,
}

/// What is found of the login that the workflow itself has.
const ITSELF: &str = "is the role of the workflow itself";

/// What is found of a role that nothing is kept from.
const SUPERUSER: &str = "is a superuser";

impl Finding {
    /// Whether the role is somebody else's: nothing is to be taken from it, the plugin needs another one.
    pub(crate) fn is_of_anothers_role(&self) -> bool {
        self.what == ITSELF || self.what == SUPERUSER
    }
}

/// Returns what there is to say of a role. Where it is somebody else's that alone: all that such a role can do fills pages,
/// and what takes it back would hurt whoever works with it.
fn that_count(findings: Vec<Finding>) -> Vec<Finding> {
    let found = |what: &str| findings.iter().find(|finding| finding.what == what);
    match found(ITSELF).or_else(|| found(SUPERUSER)) {
        Some(found) => vec![Finding {
            mend: None,
            ..found.clone()
        }],
        None => findings,
    }
}

/// Whether [`ready`] may change anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// On the private server, roles are made and granted what they lack.
    Make,
    /// Nothing is written.
    Look,
}

/// A line of what makes a role.
enum Part<'a> {
    Comment(String),
    /// Makes the role.
    Role(String),
    Always(String),
    /// Where there is this schema.
    Schema(&'a str, String),
    /// Where there is this table.
    Table(&'a TableName, String),
}

/// What a plugin's role is to have.
struct Wanted<'a> {
    workflow: &'a Workflow,
    entry: &'a PluginEntry,
    role: String,
}

/// Returns the logins of a workflow's third parties, each with a role that can do what is granted and nothing more.
///
/// # Errors
///
/// [`Problem::Role`] if a role can do more, or lacks something; [`Problem::Url`] if a plugin's own url cannot be read.
pub(crate) async fn ready(
    session: &Session,
    workflow: &Workflow,
    target: &Target,
    private: bool,
    mode: Mode,
) -> Result<Logins, RunError> {
    let mut logins = Logins::new();
    for entry in third_parties(workflow) {
        let login = login(workflow, entry, target)?;
        let wanted = Wanted {
            workflow,
            entry,
            role: login.role.clone(),
        };
        let mut findings = wanted.findings(session, mode).await?;
        // Somebody else's role is not made the plugin's either.
        let anothers = findings.iter().any(Finding::is_of_anothers_role);
        if !findings.is_empty() && !anothers && private && mode == Mode::Make {
            wanted.make(session, target.database()).await?;
            findings = wanted.findings(session, mode).await?;
        }
        if !findings.is_empty() {
            return Err(RunError::new(Problem::Role {
                plugin: entry.name.clone(),
                role: login.role,
                findings,
            }));
        }
        logins.insert(entry.name.clone(), login);
    }
    Ok(logins)
}

/// Returns a plugin's login. Without one of its own, a third party's plugin does not run at all.
pub(crate) fn of<'a>(logins: &'a Logins, entry: &PluginEntry) -> Result<&'a Login, RunError> {
    logins.get(&entry.name).ok_or_else(|| {
        let message = format!(
            "plugin \"{}\" is a third party's and has no login",
            entry.name
        );
        RunError::new(Problem::Refused(message))
    })
}

/// Grants a plugin's role what it lacks of its tables, just before its step: scratch tables are made anew in each run, and
/// a derived table may have come since the run began. Only tables of the runner's own are granted.
pub(crate) async fn grant(
    session: &Session,
    workflow: &Workflow,
    logins: &Logins,
    entry: &PluginEntry,
) -> Result<(), RunError> {
    let login = of(logins, entry)?;
    let wanted = Wanted {
        workflow,
        entry,
        role: login.role.clone(),
    };
    let (tables, privileges) = wanted.lists();
    let sql = "SELECT format('GRANT %s ON TABLE %s TO %I', t.privilege, t.name, $1::text) AS mend
        FROM unnest($2::text[], $3::text[]) AS t (name, privilege)
        JOIN pg_catalog.pg_class AS c ON c.oid = to_regclass(t.name)
        WHERE pg_has_role(c.relowner, 'USAGE') AND NOT has_table_privilege($1, c.oid, t.privilege)";
    let params = [Param::Text(login.role.clone()), tables, privileges];
    let lacking = session.ask(sql, &params, &AnswerLimits::default()).await;
    let lacking = lacking.map_err(RunError::warehouse("look at what the plugin's role may do"))?;
    for row in 0..lacking.rows as usize {
        let grant = lacking.text(row, "mend").unwrap_or_default();
        let granted = session.batch(grant).await;
        granted.map_err(RunError::warehouse("grant the plugin's role its tables"))?;
    }
    Ok(())
}

/// Returns the third parties' plugins that steps use.
pub(crate) fn third_parties(workflow: &Workflow) -> impl Iterator<Item = &PluginEntry> {
    let used = |entry: &&PluginEntry| workflow.steps.iter().any(|step| step.uses == entry.name);
    let entries = workflow.plugins.values();
    entries
        .filter(|entry| entry.trust == Trust::ThirdParty)
        .filter(used)
}

/// Returns what makes the roles of a workflow's third parties, as a script with explanations.
///
/// # Errors
///
/// [`Problem::Url`] if a connection string cannot be read. Does not connect.
pub async fn grants(workflow: &Workflow, options: &RunOptions) -> Result<String, RunError> {
    let target = match (&options.target, &workflow.warehouse.url) {
        (None, None) => connect::local_server(&options.project_dir)
            .target()
            .map_err(|source| RunError::new(Problem::Local { source }))?,
        _ => connect::target(workflow, options).await?,
    };
    let mut script = String::new();
    for entry in third_parties(workflow) {
        let role = login(workflow, entry, &target)?.role;
        let wanted = Wanted {
            workflow,
            entry,
            role,
        };
        script += &wanted.script(target.database());
    }
    Ok(script)
}

fn login(workflow: &Workflow, entry: &PluginEntry, target: &Target) -> Result<Login, RunError> {
    let plugin = entry.name.clone();
    let written = entry
        .connection
        .as_ref()
        .map(|connection| &connection.login);
    let target = match written {
        Some(WrittenLogin::Url(url)) => {
            Target::parse(url.expose()).map_err(|source| RunError::new(Problem::Url { source }))?
        }
        Some(WrittenLogin::Role { name, password }) => {
            target.with_login(name, password.as_ref().map(|password| password.expose()))
        }
        None => target.with_login(&own_role(workflow, &plugin), None),
    };
    Ok(Login {
        plugin,
        role: target.user().to_owned(),
        target,
    })
}

/// Returns the name of the role that the private server makes: `stepwell_<playbook>_<plugin>`, shortened if need be.
fn own_role(workflow: &Workflow, plugin: &str) -> String {
    const BYTES_MAX: usize = 63;
    let name = format!("stepwell_{}_{plugin}", workflow.playbook.as_str()).replace('-', "_");
    if name.len() <= BYTES_MAX {
        return name;
    }
    let digest = Digest::of(name.as_bytes()).to_string();
    let digest = &digest[digest.len() - 12..];
    // Both parts are ASCII.
    format!("{}_{digest}", &name[..BYTES_MAX - 13])
}

impl Wanted<'_> {
    /// The privileges on the tables that may be written. Reading them comes with it: a condition reads.
    fn write_privileges(&self) -> Vec<&'static str> {
        let statements = self.entry.grants.statements.iter();
        let changes = statements.filter(|kind| **kind != StatementGrant::Select);
        ["SELECT"]
            .into_iter()
            .chain(changes.map(|kind| match kind {
                StatementGrant::Select => "SELECT",
                StatementGrant::Insert => "INSERT",
                StatementGrant::Update => "UPDATE",
                StatementGrant::Delete => "DELETE",
                StatementGrant::Truncate => "TRUNCATE",
            }))
            .collect()
    }

    /// Whether it folds rows. Those that it gives are written by the host, and its role needs to read alone.
    fn folds(&self) -> bool {
        let mut steps = self.workflow.steps.iter();
        steps.any(|step| step.uses == self.entry.name && step.kind.kind == PluginKind::Reducer)
    }

    /// All tables with the privileges on each.
    fn tables(&self) -> Vec<(&TableName, Vec<&'static str>)> {
        let grants = &self.entry.grants;
        if self.folds() {
            let read = grants.read.iter();
            return read.map(|table| (table, vec!["SELECT"])).collect();
        }
        let read = grants
            .read
            .iter()
            .filter(|table| !grants.write.contains(table));
        let read = read.map(|table| (table, vec!["SELECT"]));
        read.chain(
            grants
                .write
                .iter()
                .map(|table| (table, self.write_privileges())),
        )
        .collect()
    }

    /// The same as two arrays side by side.
    fn lists(&self) -> (Param, Param) {
        let (mut names, mut privileges) = (Vec::new(), Vec::new());
        for (table, granted) in self.tables() {
            for privilege in granted {
                names.push(table.to_string());
                privileges.push(privilege.to_owned());
            }
        }
        (array(&names), array(&privileges))
    }

    fn schemas(&self) -> Vec<&str> {
        let tables = self.tables().into_iter();
        let schemas: BTreeSet<_> = tables.map(|(table, _)| table.schema()).collect();
        schemas.into_iter().collect()
    }

    /// Returns what makes the role and gives it what is granted.
    fn parts(&self, database: &str) -> Vec<Part<'_>> {
        let (role, database) = (quote_ident(&self.role), quote_ident(database));
        let mut parts = vec![
            Part::Comment(format!(
                "Plugin \"{}\" of playbook \"{}\" runs its SQL as this role and as no other. It owns nothing,",
                self.entry.name, self.workflow.playbook,
            )),
            Part::Comment("is a member of nothing, and no other work uses it: a role may end its own sessions. Give it a".into()),
            Part::Comment("way to log in: a line in pg_hba.conf (peer, scram-sha-256), and where it takes one a password.".into()),
            Part::Role(format!(
                "CREATE ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT \
                 CONNECTION LIMIT {CONNECTIONS}"
            )),
            Part::Comment("What everybody has, it would have too. Grant it again to those who need it.".into()),
            Part::Always(format!("REVOKE CREATE, TEMPORARY ON DATABASE {database} FROM PUBLIC")),
            Part::Schema("public", "REVOKE ALL ON SCHEMA public FROM PUBLIC".into()),
            Part::Comment("What the workflow grants, and nothing else.".into()),
            Part::Always(format!("GRANT CONNECT ON DATABASE {database} TO {role}")),
        ];
        for schema in self.schemas() {
            let sql = format!("GRANT USAGE ON SCHEMA {} TO {role}", quote_ident(schema));
            parts.push(Part::Schema(schema, sql));
        }
        if self.folds() {
            let scratch = "It reads, and nothing else: the rows that it gives are written by the workflow's login.";
            parts.push(Part::Comment(scratch.into()));
        }
        for (table, privileges) in self.tables() {
            let privileges = privileges.join(", ");
            parts.push(match table.schema() == self.workflow.schemas.scratch {
                true => Part::Comment(format!(
                    "{privileges} on {table}: granted by each run, which makes the table."
                )),
                false => Part::Table(
                    table,
                    format!("GRANT {privileges} ON TABLE {table} TO {role}"),
                ),
            });
        }
        parts.extend([
            Part::Comment("For a superuser, where the site allows: functions that everybody may call and that leave or send".into()),
            Part::Comment("something which no table shows. What leaves an object behind is never committed, even without this.".into()),
        ]);
        // By name: their parameters differ between versions of the server.
        parts.push(Part::Always(format!(
            "DO $$
DECLARE f record;
BEGIN
  FOR f IN
    SELECT proname, pg_get_function_identity_arguments(oid) AS arguments
    FROM pg_catalog.pg_proc
    WHERE pronamespace = 'pg_catalog'::regnamespace
      AND proname IN ({})
  LOOP
    EXECUTE format('REVOKE EXECUTE ON FUNCTION pg_catalog.%I(%s) FROM PUBLIC', f.proname, f.arguments);
  END LOOP;
END $$",
            FUNCTIONS.map(quote_literal).join(", ")
        )));
        parts
    }

    /// Writes the parts for people.
    fn script(&self, database: &str) -> String {
        let mut script = String::new();
        let mut commented = true;
        for part in self.parts(database) {
            let (line, comment) = match part {
                Part::Comment(words) => (format!("-- {words}"), true),
                Part::Role(sql)
                | Part::Always(sql)
                | Part::Schema(_, sql)
                | Part::Table(_, sql) => (sql + ";", false),
            };
            if comment && !commented {
                script.push('\n');
            }
            commented = comment;
            script += &line;
            script.push('\n');
        }
        script.push('\n');
        script
    }

    /// Makes the role on the private server, and gives it what is granted.
    async fn make(&self, session: &Session, database: &str) -> Result<(), RunError> {
        let doing =
            || RunError::warehouse(format!("make the role of plugin \"{}\"", self.entry.name));
        session.begin(Access::ReadWrite).await.map_err(doing())?;
        match self.make_inside(session, database).await {
            Ok(()) => session.commit().await.map_err(doing()),
            Err(error) => {
                session.rollback().await.map_err(doing())?;
                Err(doing()(error))
            }
        }
    }

    async fn make_inside(&self, session: &Session, database: &str) -> Result<(), WarehouseError> {
        use stepwell_warehouse::catalog::{schema_exists, table_exists};

        // Others may do the same at once, and access lists do not take two changes at a time. No third party can hold
        // this table, as it could an advisory lock.
        session
            .batch("LOCK TABLE stepwell.version IN SHARE ROW EXCLUSIVE MODE")
            .await?;
        let found = "SELECT 1 AS one FROM pg_catalog.pg_roles WHERE rolname = $1";
        let role = [Param::Text(self.role.clone())];
        let found = session.ask(found, &role, &AnswerLimits::default()).await?;
        for part in self.parts(database) {
            // What is not there yet is granted once it is.
            let (sql, due) = match part {
                Part::Comment(_) => continue,
                Part::Role(sql) => (sql, found.rows == 0),
                Part::Always(sql) => (sql, true),
                Part::Schema(schema, sql) => (sql, schema_exists(session, schema).await?),
                Part::Table(table, sql) => (sql, table_exists(session, table).await?),
            };
            if due {
                session.batch(&sql).await?;
            }
        }
        Ok(())
    }

    /// Returns all that the role can do beyond its grants, and all that it lacks of them.
    async fn findings(&self, session: &Session, mode: Mode) -> Result<Vec<Finding>, RunError> {
        let (tables, privileges) = self.lists();
        let schemas: Vec<_> = self.schemas().into_iter().map(str::to_owned).collect();
        let scratch = self.workflow.scratch_table("");
        let params = [
            Param::Text(self.role.clone()),
            tables,
            privileges,
            array(&schemas),
            Param::Text(scratch.schema().to_owned()),
            Param::Text(scratch.name().to_owned()),
        ];
        let parameters = match session.server_major() {
            15.. => PARAMETERS,
            _ => "",
        };
        let sql = format!("{EXCESS}{parameters}{LACK}\nORDER BY rank, what");
        let rows = session.ask(&sql, &params, &AnswerLimits::default()).await;
        let rows = rows.map_err(RunError::warehouse(format!(
            "look at what role \"{}\" may do",
            self.role
        )))?;
        let mut findings = Vec::new();
        for row in 0..rows.rows as usize {
            let finding = Finding {
                what: text(&rows, row, "what").unwrap_or_default(),
                mend: text(&rows, row, "mend").map(|mend| mend + ";"),
            };
            match (rows.boolean(row, "ours"), &finding.mend, mode) {
                // Scratch tables of this playbook are the host's own to mend: a grant of an earlier version of the
                // workflow.
                (Some(true), _, Mode::Look) => {}
                (Some(true), Some(mend), Mode::Make) => session
                    .batch(mend)
                    .await
                    .map_err(RunError::warehouse("take back a grant on a scratch table"))?,
                _ => findings.push(finding),
            }
        }
        Ok(that_count(findings))
    }
}

fn text(rows: &Answer, row: usize, name: &str) -> Option<String> {
    rows.text(row, name).map(str::to_owned)
}

/// Returns a text array in Postgres's text form.
fn array(items: &[String]) -> Param {
    let quoted = items.iter().map(|item| {
        let escaped = item.replace('\\', "\\\\").replace('"', "\\\"");
        format!("\"{escaped}\"")
    });
    Param::Text(format!("{{{}}}", quoted.collect::<Vec<_>>().join(",")))
}

/// Everything that the role ($1) can do beyond the privileges ($3) on tables ($2) and USAGE on schemas ($4), with what
/// takes it back. $5 and $6: schema and prefix of this playbook's scratch tables.
const EXCESS: &str = r#"WITH
  who AS (SELECT oid, rolname, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls, rolcanlogin
    FROM pg_catalog.pg_roles WHERE rolname = $1::text),
  -- PUBLIC and the role itself.
  grantees AS (SELECT 0::oid AS oid, 'PUBLIC' AS name UNION ALL SELECT oid, quote_ident(rolname) FROM who),
  granted AS (SELECT to_regclass(t.name)::oid AS oid, t.name, t.privilege
    FROM unnest($2::text[], $3::text[]) AS t (name, privilege)),
  schemas AS (SELECT n.oid, n.nspname, a.privilege_type, a.is_grantable, g.oid AS grantee, g.name AS grantee_name
    FROM pg_catalog.pg_namespace AS n,
      aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) AS a
      JOIN grantees AS g ON g.oid = a.grantee),
  usable AS (SELECT DISTINCT oid, nspname FROM schemas
    WHERE privilege_type = 'USAGE' AND nspname NOT IN ('pg_catalog', 'information_schema')
    UNION SELECT oid, nspname FROM pg_catalog.pg_namespace WHERE nspname = ANY ($4::text[])),
  -- What PUBLIC had from the beginning of what does not have the usual privileges.
  initial AS (SELECT i.classoid, i.objoid, a.privilege_type
    FROM pg_catalog.pg_init_privs AS i LEFT JOIN LATERAL aclexplode(i.initprivs) AS a ON a.grantee = 0
    WHERE i.objsubid = 0)
SELECT 1 AS rank, CASE w.word WHEN 'superuser' THEN 'is a superuser' ELSE 'has ' || upper(w.word) END AS what, format('ALTER ROLE %I NO%s', rolname, upper(w.word)) AS mend, false AS ours
  FROM who, LATERAL (VALUES ('superuser', rolsuper), ('createrole', rolcreaterole), ('createdb', rolcreatedb),
    ('replication', rolreplication), ('bypassrls', rolbypassrls)) AS w (word, has) WHERE w.has
UNION ALL SELECT 1, 'is the role of the workflow itself', NULL, false FROM who WHERE rolname = session_user
UNION ALL SELECT 2, format('is a member of role %I', r.rolname), format('REVOKE %I FROM %I', r.rolname, w.rolname), false
  FROM who AS w JOIN pg_catalog.pg_auth_members AS m ON m.member = w.oid
  JOIN pg_catalog.pg_roles AS r ON r.oid = m.roleid
UNION ALL SELECT 3, 'owns ' || CASE WHEN d.dbid IN (0, c.oid)
    THEN pg_describe_object(d.classid, d.objid, d.objsubid) ELSE 'something in another database' END,
    format('REASSIGN OWNED BY %I TO %I', w.rolname, session_user), false
  FROM who AS w JOIN pg_catalog.pg_shdepend AS d ON d.refobjid = w.oid
  JOIN pg_catalog.pg_database AS c ON c.datname = current_database()
  WHERE d.refclassid = 'pg_catalog.pg_authid'::regclass AND d.deptype = 'o'
UNION ALL SELECT 4, format('may %s in database %I', a.privilege_type, d.datname),
    format('REVOKE %s ON DATABASE %I FROM %s', a.privilege_type, d.datname, g.name), false
  FROM pg_catalog.pg_database AS d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) AS a
  JOIN grantees AS g ON g.oid = a.grantee
  WHERE d.datname = current_database() AND a.privilege_type <> 'CONNECT' AND EXISTS (SELECT FROM who)
UNION ALL SELECT 5, format('has %s on schema %I', privilege_type, nspname),
    format('REVOKE %s ON SCHEMA %I FROM %s', privilege_type, nspname, grantee_name), false
  FROM schemas WHERE EXISTS (SELECT FROM who)
    AND NOT (privilege_type = 'USAGE' AND (nspname IN ('pg_catalog', 'information_schema') OR nspname = ANY ($4::text[])))
    AND nspname !~ '^pg_(temp|toast)'
UNION ALL SELECT 6, format('may %s on %s', a.privilege_type, c.oid::regclass),
    format('REVOKE %s ON %s %s FROM %s', a.privilege_type, CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
      c.oid::regclass, g.name),
    n.nspname = $5::text AND starts_with(c.relname, $6::text) AND pg_has_role(c.relowner, 'USAGE')
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace,
    aclexplode(c.relacl) AS a JOIN grantees AS g ON g.oid = a.grantee
  WHERE (g.oid <> 0 OR n.oid IN (SELECT oid FROM usable)
      OR (n.nspname = 'pg_catalog' AND NOT EXISTS (SELECT FROM initial AS i
        WHERE i.classoid = 'pg_catalog.pg_class'::regclass AND i.objoid = c.oid AND i.privilege_type = a.privilege_type)))
    AND EXISTS (SELECT FROM who)
    AND NOT EXISTS (SELECT FROM granted AS t WHERE t.oid = c.oid AND t.privilege = a.privilege_type)
UNION ALL SELECT 6, format('may pass on %s on %s', a.privilege_type, c.oid::regclass),
    format('REVOKE GRANT OPTION FOR %s ON TABLE %s FROM %s', a.privilege_type, c.oid::regclass, g.name), false
  FROM pg_catalog.pg_class AS c, aclexplode(c.relacl) AS a JOIN grantees AS g ON g.oid = a.grantee
  WHERE a.is_grantable AND EXISTS (SELECT FROM granted AS t WHERE t.oid = c.oid AND t.privilege = a.privilege_type)
UNION ALL SELECT 6, format('may pass on %s on schema %I', privilege_type, nspname),
    format('REVOKE GRANT OPTION FOR %s ON SCHEMA %I FROM %s', privilege_type, nspname, grantee_name), false
  FROM schemas WHERE is_grantable AND privilege_type = 'USAGE' AND nspname = ANY ($4::text[])
UNION ALL SELECT 7, format('may %s column %I of %s', a.privilege_type, t.attname, c.oid::regclass),
    format('REVOKE %s (%I) ON %s FROM %s', a.privilege_type, t.attname, c.oid::regclass, g.name), false
  FROM pg_catalog.pg_attribute AS t JOIN pg_catalog.pg_class AS c ON c.oid = t.attrelid,
    aclexplode(t.attacl) AS a JOIN grantees AS g ON g.oid = a.grantee
  WHERE t.attacl IS NOT NULL AND (g.oid <> 0 OR c.relnamespace IN (SELECT oid FROM usable)) AND EXISTS (SELECT FROM who)
    AND NOT EXISTS (SELECT FROM granted AS t WHERE t.oid = c.oid AND t.privilege = a.privilege_type)
UNION ALL SELECT 8, format('may call %s, which %s', p.oid::regprocedure, CASE
      WHEN n.nspname = 'pg_catalog' THEN 'not everybody may'
      WHEN p.prosecdef THEN 'runs as its owner'
      ELSE 'reaches beyond the database' END),
    format('REVOKE EXECUTE ON ROUTINE %s FROM %s', p.oid::regprocedure, g.name), false
  FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
  JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
  LEFT JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
  LEFT JOIN pg_catalog.pg_extension AS e ON e.oid = d.refobjid,
    aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a JOIN grantees AS g ON g.oid = a.grantee
  WHERE EXISTS (SELECT FROM who) AND CASE n.nspname
    WHEN 'pg_catalog' THEN g.oid <> 0 OR (
      EXISTS (SELECT FROM initial AS i WHERE i.classoid = 'pg_catalog.pg_proc'::regclass AND i.objoid = p.oid)
      AND NOT EXISTS (SELECT FROM initial AS i WHERE i.classoid = 'pg_catalog.pg_proc'::regclass AND i.objoid = p.oid
        AND i.privilege_type = 'EXECUTE'))
    ELSE (g.oid <> 0 OR n.oid IN (SELECT oid FROM usable))
      AND (p.prosecdef OR (NOT l.lanpltrusted AND coalesce(e.extname NOT IN (
        -- Machine code that computes, and does nothing else. Of any other nobody here knows what it reaches.
        'btree_gin', 'btree_gist', 'citext', 'cube', 'dict_int', 'dict_xsyn', 'earthdistance', 'fuzzystrmatch', 'hll',
        'hstore', 'intarray', 'isn', 'ltree', 'pg_trgm', 'pgcrypto', 'plpgsql', 'postgis', 'seg', 'tablefunc',
        'tsm_system_rows', 'tsm_system_time', 'unaccent', 'uuid-ossp', 'vector'), true)))
    END
UNION ALL SELECT 9, format('may use language %I', l.lanname),
    format('REVOKE USAGE ON LANGUAGE %I FROM %s', l.lanname, g.name), false
  FROM pg_catalog.pg_language AS l, aclexplode(coalesce(l.lanacl, acldefault('l', l.lanowner))) AS a
  JOIN grantees AS g ON g.oid = a.grantee
  WHERE (g.oid <> 0 OR NOT l.lanpltrusted) AND l.lanname NOT IN ('internal', 'c') AND EXISTS (SELECT FROM who)
UNION ALL SELECT 10, format('may use foreign server %I', s.srvname),
    format('REVOKE USAGE ON FOREIGN SERVER %I FROM %s', s.srvname, g.name), false
  FROM pg_catalog.pg_foreign_server AS s, aclexplode(s.srvacl) AS a JOIN grantees AS g ON g.oid = a.grantee
  WHERE EXISTS (SELECT FROM who)
UNION ALL SELECT 10, format('may use foreign data wrapper %I', f.fdwname),
    format('REVOKE USAGE ON FOREIGN DATA WRAPPER %I FROM %s', f.fdwname, g.name), false
  FROM pg_catalog.pg_foreign_data_wrapper AS f, aclexplode(f.fdwacl) AS a JOIN grantees AS g ON g.oid = a.grantee
  WHERE EXISTS (SELECT FROM who)
UNION ALL SELECT 11, format('may %s large object %s', a.privilege_type, o.oid),
    format('REVOKE %s ON LARGE OBJECT %s FROM %s', a.privilege_type, o.oid, g.name), false
  FROM pg_catalog.pg_largeobject_metadata AS o, aclexplode(o.lomacl) AS a JOIN grantees AS g ON g.oid = a.grantee
  WHERE EXISTS (SELECT FROM who)
UNION ALL SELECT 11, 'may read every large object, by lo_compat_privileges', 'ALTER SYSTEM SET lo_compat_privileges = off',
    false FROM who WHERE current_setting('lo_compat_privileges') = 'on'
UNION ALL SELECT 12, format('may create in tablespace %I', s.spcname),
    format('REVOKE CREATE ON TABLESPACE %I FROM %s', s.spcname, g.name), false
  FROM pg_catalog.pg_tablespace AS s, aclexplode(s.spcacl) AS a JOIN grantees AS g ON g.oid = a.grantee
  WHERE EXISTS (SELECT FROM who)
UNION ALL SELECT 13, format('will have %s on what role %I makes (default privileges)', a.privilege_type, r.rolname),
    format('ALTER DEFAULT PRIVILEGES FOR ROLE %I%s REVOKE %s ON %s FROM %s', r.rolname,
      CASE WHEN n.nspname IS NOT NULL THEN format(' IN SCHEMA %I', n.nspname) END, a.privilege_type,
      CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'ROUTINES' WHEN 'T' THEN 'TYPES'
        ELSE 'SCHEMAS' END, g.name), false
  FROM pg_catalog.pg_default_acl AS d JOIN pg_catalog.pg_roles AS r ON r.oid = d.defaclrole
  LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = d.defaclnamespace,
    aclexplode(d.defaclacl) AS a JOIN grantees AS g ON g.oid = a.grantee
  WHERE g.oid <> 0 OR d.defaclobjtype IN ('r', 'S', 'n')
"#;

/// Settings that the role may change although they are a superuser's. Servers from 15 on have such grants.
const PARAMETERS: &str = "UNION ALL SELECT 14, format('may %s parameter %s', a.privilege_type, p.parname),
    format('REVOKE %s ON PARAMETER %s FROM %s', a.privilege_type, p.parname, g.name), false
  FROM pg_catalog.pg_parameter_acl AS p, aclexplode(p.paracl) AS a JOIN grantees AS g ON g.oid = a.grantee
  WHERE EXISTS (SELECT FROM who)
";

/// What the role lacks. Tables that are not there yet, and scratch tables, are granted once they are.
const LACK: &str = "UNION ALL SELECT 20, 'does not exist', NULL, false
  WHERE NOT EXISTS (SELECT FROM who)
UNION ALL SELECT 20, 'may not log in', format('ALTER ROLE %I LOGIN', rolname), false FROM who WHERE NOT rolcanlogin
UNION ALL SELECT 21, format('lacks USAGE on schema %I', n.nspname),
    format('GRANT USAGE ON SCHEMA %I TO %I', n.nspname, w.rolname), false
  FROM who AS w, pg_catalog.pg_namespace AS n
  WHERE n.nspname = ANY ($4::text[]) AND NOT has_schema_privilege(w.oid, n.oid, 'USAGE')
UNION ALL SELECT 22, format('lacks %s on %s', t.privilege, t.name),
    format('GRANT %s ON TABLE %s TO %I', t.privilege, t.name, w.rolname), false
  FROM who AS w, granted AS t JOIN pg_catalog.pg_class AS c ON c.oid = t.oid
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  WHERE n.nspname <> $5::text AND NOT has_table_privilege(w.oid, t.oid, t.privilege)";
