//! `stepwell plugin keygen`, `sign` and `verify`: who stands behind a component.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use stepwell_runner::SignatureState;
use stepwell_signature::{FILE_BYTES_MAX, PublicKey, SecretKey, SignatureFile};
use stepwell_workflow::{Declarations, TrustPolicy};

use super::{ComponentFile, inputs, read_component};
use crate::commands::{Context, Outcome};
use crate::exit;
use crate::failed::Failed;
use crate::files::Vars;
use crate::render::problems;

/// Largest file of a key, in bytes.
const KEY_BYTES_MAX: u64 = 4096;

/// Bits of a file's mode that let others read it.
const OTHERS_MAY_READ: u32 = 0o077;

/// Make a pair of keys: one that signs plugins, one by which signatures are checked
///
/// Writes the secret key to FILE, readable by you alone, and the public key to FILE.pub. Prints the
/// public one to stdout, and to stderr where it goes: under `trust: { keys: […] }` of workflow
/// files, or `keys: […]` of the site's trust file. A file that is there is never replaced; a folder
/// that is missing is made, for you alone.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  stepwell plugin keygen ~/.config/stepwell/signing.key

Exit codes: 0 done, 1 a file cannot be written, 2 a file is there already.")]
pub(crate) struct KeygenArgs {
    /// The file for the secret key
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Sign a plugin's component
///
/// Adds a line to FILE.sig: Ed25519 over the component's SHA-256. Signatures of an earlier
/// component there go, those by other keys stay.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  stepwell plugin sign target/plugins/engaged-time.wasm --key ~/.config/stepwell/signing.key

Exit codes: 0 signed, 2 the key cannot be used, 10 the component is no step that runs here.")]
pub(crate) struct SignArgs {
    #[command(flatten)]
    component: ComponentFile,
    /// The file of the secret key, which nobody else may be able to read
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The signature file, instead of the component's name with `.sig` behind
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
}

/// Check a component's signature
///
/// Against a key, or against what a workflow file and the site trust. The site's trust file is
/// /etc/stepwell/trust.yaml, and the one that STEPWELL_TRUST names; both count.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  stepwell plugin verify engaged-time.wasm --key acme.pub
  stepwell plugin verify engaged-time.wasm --key ed25519:d75a…511a
  stepwell plugin verify engaged-time.wasm --workflow workflows/visitors.yaml

Exit codes: 0 a trusted key signed it, 2 no key is given, 10 no trusted key did.")]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    component: ComponentFile,
    /// A public key that is trusted, or its file; may be repeated
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,
    /// A workflow file whose keys are trusted
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    workflow: Option<PathBuf>,
    /// The signature file, instead of the component's name with `.sig` behind
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    vars: Vars,
}

pub(crate) fn keygen(args: &KeygenArgs, context: &Context) -> Outcome {
    let public_file = with_suffix(&args.file, ".pub");
    let key = SecretKey::generate().context("could not make a key")?;
    if let Some(folder) = args.file.parent().filter(|it| !it.as_os_str().is_empty()) {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.with_context(|| format!("could not make folder {}", folder.display()))?;
    }
    // The secret one first: nobody should trust a key whose secret half is lost.
    create(&args.file, &key.to_file(), 0o600)?;
    create(&public_file, &format!("{}\n", key.public()), 0o644)?;
    let public = key.public().to_string();
    context
        .output
        .say(&explained(&args.file, &public_file, &public));
    // By itself, for scripts.
    context.output.result(&public)?;
    Ok(exit::SUCCESS)
}

/// What the two files are for.
fn explained(secret_file: &Path, public_file: &Path, public: &str) -> String {
    let (secret_file, public_file) = (secret_file.display(), public_file.display());
    format!(
        "{secret_file}: the secret key, for `stepwell plugin sign --key`. Keep it secret, and a copy of it safe: who has it \
         can sign in your name.\n\
         {public_file}: the public key, for all who use what you sign. In their workflow files:\n  \
         trust: {{ keys: [{public}] }}"
    )
}

pub(crate) fn sign(args: &SignArgs, context: &Context) -> Outcome {
    let key = secret_key(&args.key)?;
    let (_, inspection) = read_component(&args.component.file)?;
    let path = signature_path(&args.component.file, args.signature.as_deref());
    let mut signatures = match read_bounded(&path, FILE_BYTES_MAX as u64) {
        Ok(text) => text
            .parse::<SignatureFile>()
            .map_err(|error| Failed::Plugin {
                message: format!("{}: {error}", path.display()),
                details: Vec::new(),
                help: Some("Mend or remove the file; nothing was written.".into()),
            })?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => SignatureFile::default(),
        Err(error) => {
            let doing = format!("could not read {}", path.display());
            return Err(anyhow::Error::new(error).context(doing).into());
        }
    };
    signatures.add(key.sign(inspection.digest.as_bytes()));
    fs::write(&path, signatures.to_string())
        .with_context(|| format!("could not write {}", path.display()))?;
    context.output.result(&format!(
        "{}: signed {} by {}",
        path.display(),
        inspection.digest,
        key.public()
    ))?;
    Ok(exit::SUCCESS)
}

pub(crate) fn verify(args: &VerifyArgs, context: &Context) -> Outcome {
    let keys = trusted(args, context)?;
    if keys.is_empty() {
        return Err(Failed::Usage {
            message: "there is no key to check the signature by".into(),
            help: "give `--key`, or `--workflow` with a file that has `trust: { keys: […] }`"
                .into(),
        });
    }
    let (_, inspection) = read_component(&args.component.file)?;
    let path = signature_path(&args.component.file, args.signature.as_deref());
    let state = SignatureState::read(&path, inspection.digest, &keys);
    let good = matches!(state, SignatureState::Good(_));
    if args.json {
        context.output.json(&json!({
            "component": args.component.file.display().to_string(),
            "digest": inspection.digest.to_string(),
            "signature-file": path.display().to_string(),
            "good": good,
            "key": match &state { SignatureState::Good(key) => Some(key.to_string()), _ => None },
            "reason": state.reason(&path),
        }))?;
        return Ok(if good { exit::SUCCESS } else { exit::PLUGIN });
    }
    match (&state, state.reason(&path)) {
        (SignatureState::Good(key), _) => {
            context
                .output
                .result(&format!("{}: signed by {key}", inspection.digest))?;
            Ok(exit::SUCCESS)
        }
        (_, reason) => Err(Failed::Plugin {
            message: format!(
                "{} has no good signature: {}",
                args.component.file.display(),
                reason.unwrap_or_default()
            ),
            details: vec![("detail", format!("the component has {}", inspection.digest))],
            help: Some(match state {
                SignatureState::Unknown(_) => {
                    "If you know whose key that is, list it under `trust: { keys: […] }`, or give it as `--key`.".into()
                }
                _ => "Do not use it, unless you know why.".into(),
            }),
        }),
    }
}

fn trusted(args: &VerifyArgs, context: &Context) -> Result<Vec<PublicKey>, Failed> {
    if !args.key.is_empty() {
        return args.key.iter().map(|key| public_key(key)).collect();
    }
    let Some(file) = &args.workflow else {
        return Ok(stepwell_runner::trusted_keys(
            &context.site_trust,
            &TrustPolicy::default(),
        ));
    };
    let declared = Declarations::read(file, &inputs(&args.vars));
    if !declared.problems.is_empty() {
        context.output.say(&problems::render(
            &declared.source_file,
            &declared.problems,
            &context.output.renderer(),
        ));
    }
    Ok(stepwell_runner::trusted_keys(
        &context.site_trust,
        &declared.trust,
    ))
}

/// A key as it stands, or in a file.
fn public_key(given: &str) -> Result<PublicKey, Failed> {
    if let Ok(key) = given.parse() {
        return Ok(key);
    }
    let unusable = |message: String| Failed::Usage {
        message,
        help: "give `ed25519:…` as `stepwell plugin keygen` prints it, or the `.pub` file".into(),
    };
    let text = read_bounded(Path::new(given), KEY_BYTES_MAX)
        .map_err(|error| unusable(format!("could not read key {given}: {error}")))?;
    PublicKey::from_file(&text).map_err(|error| unusable(format!("key {given}: {error}")))
}

/// Reads a secret key from a file that is its owner's alone. No message holds any of its text.
fn secret_key(path: &Path) -> Result<SecretKey, Failed> {
    let shown = path.display();
    let unusable = |message: String, help: &str| Failed::Usage {
        message,
        help: help.to_owned(),
    };
    let make = "make one with `stepwell plugin keygen`";
    let mode = fs::metadata(path)
        .map_err(|error| unusable(format!("could not read key {shown}: {error}"), make))?
        .mode();
    let text = read_bounded(path, KEY_BYTES_MAX)
        .map_err(|error| unusable(format!("could not read key {shown}: {error}"), make))?;
    if PublicKey::from_file(&text).is_ok() {
        return Err(unusable(
            format!("{shown} holds a public key"),
            "name the secret one, which `stepwell plugin keygen` wrote beside it: the same name without `.pub`",
        ));
    }
    if mode & OTHERS_MAY_READ != 0 {
        return Err(unusable(
            format!(
                "others may read the secret key {shown}: its mode is {:03o}",
                mode & 0o777
            ),
            "close it with `chmod 600`; if somebody may have read it, make a new one",
        ));
    }
    SecretKey::from_file(&text).map_err(|error| unusable(format!("key {shown}: {error}"), make))
}

fn read_bounded(path: &Path, bytes_max: u64) -> std::io::Result<String> {
    let mut text = String::new();
    // One byte more, so that what is too long is refused by its reader and not cut to fit.
    File::open(path)?
        .take(bytes_max + 1)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// Writes a file that is not there yet.
fn create(path: &Path, text: &str, mode: u32) -> Result<(), Failed> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path);
    let written = match file {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(Failed::Usage {
                message: format!(
                    "{} is there already, and a key is never replaced",
                    path.display()
                ),
                help: "name another file".into(),
            });
        }
        file => file.and_then(|mut file| file.write_all(text.as_bytes())),
    };
    Ok(written.with_context(|| format!("could not write {}", path.display()))?)
}

pub(super) fn signature_path(component: &Path, given: Option<&Path>) -> PathBuf {
    given.map_or_else(|| with_suffix(component, ".sig"), Path::to_owned)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::output::Output;

    fn context(folder: &Path) -> Context {
        Context {
            output: Output::plain(),
            project: folder.to_owned(),
            named_project: None,
            site_trust: Vec::new(),
        }
    }

    #[test]
    fn a_secret_key_is_its_owners_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("k");
        let args = KeygenArgs { file: file.clone() };
        assert_eq!(
            keygen(&args, &context(folder.path())).ok(),
            Some(exit::SUCCESS)
        );
        assert_eq!(
            fs::metadata(&file).expect("it was made").mode() & 0o777,
            0o600
        );
        let key = secret_key(&file).expect("a key");
        let public = public_key(&folder.path().join("k.pub").display().to_string());
        assert_eq!(public.ok(), Some(key.public()));
        let Err(Failed::Usage { message, .. }) = secret_key(&folder.path().join("k.pub")) else {
            panic!("nobody signs with it")
        };
        assert!(message.ends_with("k.pub holds a public key"), "{message}");

        // Never replaced: what it signed could not be signed again.
        let before = fs::read_to_string(&file).expect("a file");
        assert!(matches!(
            keygen(&args, &context(folder.path())),
            Err(Failed::Usage { .. })
        ));
        assert_eq!(fs::read_to_string(&file).expect("a file"), before);

        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("it is ours");
        let Err(Failed::Usage { message, .. }) = secret_key(&file) else {
            panic!("others may read it")
        };
        assert!(message.ends_with("its mode is 640"), "{message}");
    }

    /// `keygen ~/.config/stepwell/signing.key`, as the help has it, failed where the folder was missing.
    #[test]
    fn a_folder_that_is_missing_is_made_for_its_owner_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let parent = folder.path().join("config/stepwell");
        let args = KeygenArgs {
            file: parent.join("k"),
        };
        assert_eq!(
            keygen(&args, &context(folder.path())).ok(),
            Some(exit::SUCCESS)
        );
        assert!(secret_key(&args.file).is_ok());
        let mode = fs::metadata(&parent).expect("it was made").mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn a_new_key_says_where_it_goes() {
        let words = explained(Path::new("k"), Path::new("k.pub"), "ed25519:00");
        assert_eq!(
            words,
            "k: the secret key, for `stepwell plugin sign --key`. Keep it secret, and a copy of it safe: who has it can \
             sign in your name.\n\
             k.pub: the public key, for all who use what you sign. In their workflow files:\n  \
             trust: { keys: [ed25519:00] }"
        );
    }

    #[test]
    fn no_message_shows_a_secret_key() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("k");
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f6";
        create(&file, &format!("ed25519-secret:{seed}\n"), 0o600).expect("written");
        let Err(Failed::Usage { message, help }) = secret_key(&file) else {
            panic!("a digit is missing")
        };
        assert!(
            !message.contains(&seed[..8]) && !help.contains(&seed[..8]),
            "{message}"
        );
    }
}
