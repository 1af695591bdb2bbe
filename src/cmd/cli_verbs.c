/* The verbs of seki. Help, completion and the check of the manual page read this table. */
#include "cmd/cli.h"

#define END {0}

const struct cli_flag cli_global_flags[] = {
    {.name = "--namespace", .letter = 'n', .value = "NAME", .help = "the project (default: the kubeconfig's)"},
    {.name = "--kubeconfig", .value = "FILE", .help = "credentials for the API (default: $KUBECONFIG, ~/.kube/config)", .complete = "@file"},
    {.name = "--output", .letter = 'o', .value = "FORMAT", .help = "table (default) or json", .complete = "table json"},
    {.name = "--help", .letter = 'h', .help = "help, here or for a verb"},
    END,
};

static const struct cli_flag wait_flags[] = {
    {.name = "--for", .value = "CONDITION", .help = "the condition (default: Ready)", .complete = "Ready EngineStarted ModelVerified Verified"},
    {.name = "--unless", .value = "REASON", .help = "give up, with status 1, when this is the condition's reason; repeat for more", .complete = "CrashLoopBackOff", .many = true},
    {.name = "--timeout", .value = "DURATION", .help = "give up after this long, with status 1 (default: 5m)"},
    END,
};
static const struct cli_flag chat_flags[] = {
    {.name = "--model", .value = "NAME", .help = "the model (default: $SEKI_MODEL)"},
    {.name = "--system", .value = "TEXT", .help = "the system message: how to answer"},
    {.name = "--max-tokens", .value = "N", .help = "longest answer"},
    {.name = "--raw", .help = "continue the text instead of answering it: for base models"},
    {.name = "--base-url", .value = "URL", .help = "the gateway (default: $OPENAI_BASE_URL)"},
    END,
};
static const struct cli_flag adopt_flags[] = {
    {.name = "--driver", .value = "NAME", .help = "what they are (default: as they say themselves)", .complete = "openai vllm sglang"},
    {.name = "--model", .value = "NAME", .help = "only this model of theirs; repeat for more (default: all)", .many = true},
    {.name = "--embeddings", .value = "NAME", .help = "this model serves embeddings; repeat for more", .many = true},
    {.name = "--server-key-file", .value = "FILE", .help = "the servers' own API key", .complete = "@file"},
    {.name = "--key", .value = "NAME", .help = "name of the API key that is made for clients (default: adopted)"},
    {.name = "--base-url", .value = "URL", .help = "the gateway, to look whether it works (default: $OPENAI_BASE_URL)"},
    {.name = "--timeout", .value = "DURATION", .help = "give up after this long, with status 1 (default: 1m)"},
    END,
};
static const struct cli_flag create_flags[] = {
    {.name = "--expires", .value = "DURATION", .help = "refuse it after this long, for example 24h or 30d"},
    {.name = "--endpoint", .value = "NAME", .help = "a ModelEndpoint or ModelRoute that it may call, PROJECT/NAME where another project shares it; repeat for more (default: all)", .many = true},
    {.name = "--requests-per-minute", .value = "N", .help = "requests that it may send a minute"},
    {.name = "--tokens-per-minute", .value = "N", .help = "tokens of prompts and answers that it may use a minute"},
    {.name = "--concurrent-requests", .value = "N", .help = "requests that it may have running at the same time"},
    {.name = "--quiet", .letter = 'q', .help = "print the key and nothing else"},
    END,
};
static const struct cli_flag list_flags[] = {
    {.name = "--all-namespaces", .letter = 'A', .help = "of all projects"},
    END,
};
static const struct cli_flag cluster_create_flags[] = {
    {.name = "--version", .value = "MINOR", .help = "of Kubernetes (default: 1.37)", .complete = "1.36 1.37"},
    {.name = "--replicas", .value = "N", .help = "of each component of its control plane: 1 (default) or 3", .complete = "1 3"},
    {.name = "--size", .value = "SIZE", .help = "of its control plane: Small (default), Medium or Large", .complete = "Small Medium Large"},
    {.name = "--pod-cidr", .value = "NETWORK", .help = "addresses of pods (default: 10.244.0.0/16)"},
    {.name = "--service-cidr", .value = "NETWORK", .help = "addresses of Services (default: 10.96.0.0/16)"},
    {.name = "--endpoint-name", .value = "NAME", .help = "a DNS name or address under which clients reach its API server; repeat for more", .many = true},
    {.name = "--no-wait", .help = "do not wait until it is ready"},
    {.name = "--timeout", .value = "DURATION", .help = "stop waiting after this long, with status 1 (default: 5m)"},
    END,
};
static const struct cli_flag cluster_kubeconfig_flags[] = {
    {.name = "--user", .value = "NAME", .help = "for a user of this name instead, with a certificate that ends; takes an administrator of the cluster"},
    {.name = "--group", .value = "NAME", .help = "a group that this user is in; repeat for more", .many = true},
    {.name = "--life", .value = "DURATION", .help = "how long the user's certificate is good, 10m to 720h (default: 8h); it cannot be taken back"},
    {.name = "--oidc", .help = "without any secret: for whoever logs in at the tenant's issuer, as with `seki login`"},
    {.name = "--issuer", .value = "URL", .help = "that issuer (default: that of the current context, which came from `seki login`)"},
    {.name = "--client-id", .value = "ID", .help = "the name by which the issuer knows this client"},
    {.name = "--issuer-ca", .value = "FILE", .help = "who signed the issuer's certificate, in PEM (default: the system's authorities)", .complete = "@file"},
    {.name = "--out", .value = "FILE", .help = "write it there, for its owner only, instead of printing it", .complete = "@file"},
    END,
};
static const struct cli_flag cluster_logs_flags[] = {
    {.name = "--component", .value = "NAME", .help = "of which: apiserver (default), controllers, scheduler, etcd or kms; of three: relay, and etcd-1, apiserver-2 and so on", .complete = "apiserver controllers scheduler etcd kms"},
    {.name = "--lines", .value = "N", .help = "the last N lines (default: 20)"},
    {.name = "--follow", .letter = 'f', .help = "go on with what is added, until interrupted"},
    END,
};
static const struct cli_flag cluster_audit_flags[] = {
    {.name = "--lines", .value = "N", .help = "the last N lines of its newest file (default: all there are)"},
    {.name = "--follow", .letter = 'f', .help = "go on with what is added, until interrupted"},
    END,
};
static const struct cli_flag cluster_delete_flags[] = {
    {.name = "--timeout", .value = "DURATION", .help = "stop waiting after this long, with status 1 (default: 5m)"},
    END,
};
static const struct cli_flag cluster_restore_flags[] = {
    {.name = "--from", .value = "ID", .help = "the backup to go back to, of `seki cluster backups` (default: the newest)"},
    {.name = "--timeout", .value = "DURATION", .help = "stop waiting after this long, with status 1 (default: 5m)"},
    END,
};
static const struct cli_flag cluster_upgrade_flags[] = {
    {.name = "--version", .value = "MINOR", .help = "of Kubernetes: the next one after that which it runs", .complete = "1.37"},
    {.name = "--now", .help = "do not wait for the cluster's maintenance window"},
    {.name = "--timeout", .value = "DURATION", .help = "stop waiting after this long, with status 1 (default: 5m)"},
    END,
};
static const struct cli_flag usage_flags[] = {
    {.name = "--day", .value = "YYYY-MM-DD", .help = "of this day alone (UTC)"},
    {.name = "--all-namespaces", .letter = 'A', .help = "of all projects"},
    END,
};
static const struct cli_flag usage_verify_flags[] = {
    {.name = "--reports", .value = "FILE", .help = "these UsageReports must be what the records give: as `seki usage -A -o json` printed them", .complete = "@file"},
    END,
};
static const struct cli_flag residency_flags[] = {
    {.name = "--base-url", .value = "URL", .help = "the gateway (default: $OPENAI_BASE_URL)"},
    END,
};
static const struct cli_flag slo_flags[] = {
    {.name = "--month", .value = "YYYY-MM", .help = "of this month alone (UTC)"},
    {.name = "--tenant", .value = "NAME", .help = "of all projects of this tenant, added up"},
    {.name = "--all-namespaces", .letter = 'A', .help = "of all projects"},
    END,
};
static const struct cli_flag logs_flags[] = {
    {.name = "--lines", .value = "N", .help = "the last N lines (default: 20)"},
    {.name = "--follow", .letter = 'f', .help = "go on as it grows"},
    {.name = "--log-dir", .value = "DIRECTORY", .help = "where sekid keeps logs (default: $SEKI_LOG_DIR, /var/lib/seki/log)", .complete = "@dir"},
    END,
};

static const struct cli_flag tenant_flags[] = {
    {.name = "--admin", .value = "USER", .help = "who may do everything in it; repeat for more", .many = true},
    {.name = "--display-name", .value = "TEXT", .help = "the company's name"},
    {.name = "--limit", .value = "KEY=N", .help = "how much it may have: projects, and in each project objects or a resource such as secrets; repeat for more", .many = true},
    {.name = "--billing-account", .value = "TEXT", .help = "the account in your billing system"},
    {.name = "--kubeconfig-out", .value = "FILE", .help = "write credentials of its first admin there, good for a day", .complete = "@file"},
    END,
};
static const struct cli_flag close_flags[] = {
    {.name = "--export", .value = "FILE", .help = "keep its usage there, for the last bill", .complete = "@file"},
    {.name = "--ledger", .value = "DIRECTORY", .help = "the audit ledger's, for a statement of what was deleted (default: $SEKI_LEDGER_DIR, /var/lib/seki/ledger, where it can be read)", .complete = "@dir"},
    {.name = "--yes", .help = "all its projects shall be deleted for good"},
    END,
};
static const struct cli_flag audit_verify_flags[] = {
    {.name = "--record", .value = "SEQUENCE:SHA256", .help = "this record must be there with this hash, as a statement of a tenant's end has it"},
    END,
};
static const struct cli_flag audit_flags[] = {
    {.name = "--tenant", .value = "NAME", .help = "what concerns this tenant alone"},
    {.name = "--after", .value = "SEQUENCE", .help = "only what comes after this record"},
    END,
};
static const struct cli_flag export_flags[] = {
    {.name = "--format", .value = "FORMAT", .help = "ocsf (default) or json: the records as they are", .complete = "ocsf json"},
    {.name = "--tenant", .value = "NAME", .help = "what concerns this tenant alone"},
    {.name = "--after", .value = "SEQUENCE", .help = "only what comes after this record"},
    END,
};
#define ISSUER_FLAGS \
    {.name = "--issuer", .value = "URL", .help = "who knows you; https only"}, \
    {.name = "--client-id", .value = "ID", .help = "by which the issuer knows this client"}, \
    {.name = "--client-secret-file", .value = "FILE", .help = "its secret, where the issuer wants one", .complete = "@file"}, \
    {.name = "--issuer-ca", .value = "FILE", .help = "authority of the issuer's certificate (default: the system's)", .complete = "@file"}, \
    {.name = "--scopes", .value = "TEXT", .help = "what is asked for (default: openid profile email groups offline_access)"}
#define FLOW_FLAG {.name = "--flow", .value = "FLOW", .help = "browser or device (default: what fits)", .complete = "browser device"}
static const struct cli_flag login_flags[] = {
    {.name = "--server", .value = "URL", .help = "the API"},
    {.name = "--ca", .value = "FILE", .help = "authority of the API's certificate (default: the system's)", .complete = "@file"},
    {.name = "--name", .value = "NAME", .help = "of the context, cluster and user in the kubeconfig (default: seki)"},
    ISSUER_FLAGS,
    FLOW_FLAG,
    END,
};
#define CONTEXT_FLAG {.name = "--name", .value = "NAME", .help = "of the context that login made (default: seki)"}
static const struct cli_flag logout_flags[] = {ISSUER_FLAGS, CONTEXT_FLAG, END};
static const struct cli_flag credential_flags[] = {ISSUER_FLAGS, FLOW_FLAG, CONTEXT_FLAG, END};
static const struct cli_flag break_glass_flags[] = {
    {.name = "--for", .value = "DURATION", .help = "how long, from 1m to 8h (default: 30m)"},
    {.name = "--reason", .value = "TEXT", .help = "why, for those who are told of it"},
    {.name = "--data", .value = "DIRECTORY", .help = "sekid's data directory (default: $SEKI_DATA, /var/lib/seki)", .complete = "@dir"},
    END,
};

static const struct cli_flag support_flags[] = {
    {.name = "--texts", .help = "keep error texts of the log and messages of conditions, which may quote what somebody wrote"},
    {.name = "--config", .value = "FILE", .help = "sekid's configuration (default: /etc/seki/seki.conf)", .complete = "@file"},
    {.name = "--data", .value = "DIRECTORY", .help = "sekid's data directory (default: as the configuration says)", .complete = "@dir"},
    {.name = "--log", .value = "FILE", .help = "sekid's log, in JSON (default: the journal of systemd)", .complete = "@file"},
    END,
};
static const struct cli_flag secrets_flags[] = {
    {.name = "--tenant", .value = "NAME", .help = "of this tenant alone (default: of all)"},
    END,
};
static const struct cli_flag rotate_flags[] = {
    {.name = "--tenant", .value = "NAME", .help = "of this tenant alone (default: of all)"},
    {.name = "--timeout", .value = "DURATION", .help = "stop waiting after this long, with status 1 (default: 5m)"},
    END,
};

static const struct cli_flag backup_flags[] = {
    {.name = "--key", .value = "FILE", .help = "the key that seals it; `seki backup keygen` makes one", .complete = "@file"},
    {.name = "--data", .value = "DIRECTORY", .help = "the data directory (default: $SEKI_DATA, /var/lib/seki)", .complete = "@dir"},
    {.name = "--keep", .value = "N", .help = "in a directory of backups: remove all but the newest N"},
    {.name = "--with-root-key", .help = "with secrets/root.key in it: then this key is all that guards secrets"},
    END,
};
static const struct cli_flag verify_flags[] = {
    {.name = "--key", .value = "FILE", .help = "the key that it was made with", .complete = "@file"},
    END,
};
static const struct cli_flag restore_flags[] = {
    {.name = "--key", .value = "FILE", .help = "the key that it was made with", .complete = "@file"},
    {.name = "--data", .value = "DIRECTORY", .help = "where to: empty, or not there yet (default: $SEKI_DATA, /var/lib/seki)", .complete = "@dir"},
    END,
};

static const struct cli_flag upgrade_flags[] = {
    {.name = "--data", .value = "DIRECTORY", .help = "the data directory (default: $SEKI_DATA, /var/lib/seki)", .complete = "@dir"},
    END,
};
static const struct cli_flag rollback_flags[] = {
    {.name = "--data", .value = "DIRECTORY", .help = "the data directory (default: $SEKI_DATA, /var/lib/seki)", .complete = "@dir"},
    {.name = "--yes", .help = "what was written since the upgrade may be lost"},
    END,
};

const struct cli_verb cli_verbs[] = {
    {.name = "status",
     .args = "",
     .help = "what runs here: models, clusters, why one is not ready",
     .more = "All projects, or with -n one.\n",
     .run = cli_status},
    {.name = "wait",
     .args = "KIND/NAME",
     .help = "wait for a condition, telling what is awaited",
     .more = "Each change of the condition's reason is told on stderr.\n\n"
             "  seki -n demo wait modelendpoint/chat --timeout 2m\n"
             "  seki -n demo wait model/gemma --for Verified\n",
     .run = cli_wait,
     .flags = wait_flags},
    {.name = "chat",
     .args = "[PROMPT]",
     .help = "ask a model; without PROMPT, a conversation from the terminal",
     .more = "Ctrl-C ends the answer that is coming, and in a conversation gives the prompt back.\n\n"
             "  seki chat \"Why is the sky blue?\"\n"
             "  seki chat --raw --max-tokens 20 \"Roses are red,\"\n"
             "  seki chat -- \"-1 is what kind of number?\"\n",
     .run = cli_chat,
     .flags = chat_flags},
    {.name = "adopt",
     .args = "URL...",
     .help = "put running OpenAI-compatible servers behind the gateway, as they are",
     .more = "Makes a ModelEndpoint of each model that they list, and an API key, and says what clients change. Servers of the same model share its requests. May be run again.\n"
             "Servers that are not public need the operator's option engine-remote-allow.\n\n"
             "  seki -n demo adopt http://10.0.0.5:8000/v1 --base-url https://models.example/v1\n"
             "  seki -n demo adopt http://10.0.0.5:8000 http://10.0.0.6:8000 --server-key-file vllm.key\n",
     .run = cli_adopt,
     .flags = adopt_flags},
    {.name = "key create",
     .args = "NAME",
     .help = "make an API key; it is shown this once",
     .more = "  seki -n demo key create app --expires 30d\n"
             "  export OPENAI_API_KEY=$(seki -n demo key create ci --endpoint chat --quiet)\n",
     .run = cli_key_create,
     .flags = create_flags},
    {.name = "key list", .args = "", .help = "the API keys of a project", .run = cli_key_list, .flags = list_flags},
    {.name = "key revoke", .args = "NAME", .help = "delete an API key; requests with it are refused at once", .run = cli_key_revoke},
    {.name = "usage verify",
     .args = "[DIRECTORY]",
     .help = "check the usage ledger, and make all reports anew from it",
     .more = "Works on the files, or on a copy of them, without a daemon. Each record must follow on the one before, be there once, and add up: what engines made is what was billed and what\n"
             "was not. Journals beside the ledger must say the same. The first bad record is named, and the exit status is 1. DIRECTORY has the files usage.000001 and so on (default:\n"
             "$SEKI_LEDGER_DIR, /var/lib/seki/ledger).\n\n"
             "  seki usage verify /mnt/copy/ledger\n"
             "  seki usage -A -o json >reports.json\n"
             "  seki usage verify --reports reports.json\n",
     .run = cli_usage_verify,
     .flags = usage_verify_flags,
     .complete = "@dir",
     .csv = true},
    {.name = "usage",
     .args = "",
     .help = "requests and tokens by day, key and model",
     .more = "Billed are PROMPT and COMPLETION. With -o wide (and csv) there is what engines did beside that, in LOSERS, REPLAYED and UNSEEN: for attempts that ran beside a faster one, to\n"
             "go on where another one had failed, and for nobody. Of INEXACT attempts the engine did not say what it made: what came by is counted.\n\n"
             "  seki -n demo usage --day 2026-01-31\n  seki usage -A -o wide\n  seki usage -A -o csv >usage.csv\n",
     .run = cli_usage,
     .flags = usage_flags,
     .csv = true,
     .wide = true},
    {.name = "slo",
     .args = "",
     .help = "how far endpoints kept what they promise (spec.slo), by month",
     .more = "BUDGET is what is left of the requests that may be bad; below 0 the promise is broken.\n\n"
             "  seki -n demo slo\n  seki slo --tenant acme --month 2026-01\n",
     .run = cli_slo,
     .flags = slo_flags},
    {.name = "residency check",
     .args = "[MODEL]",
     .help = "where a request of your key to a model may be worked on, and which rule forbids the rest",
     .more = "Asks the gateway, with $OPENAI_API_KEY, and sends no request. MODEL is by default $SEKI_MODEL. Ends with status 1 when such a request is refused.\n\n"
             "  seki residency check chat\n",
     .run = cli_residency_check,
     .flags = residency_flags},
    {.name = "logs",
     .args = "REPLICA",
     .help = "an engine's log, on the machine where it runs",
     .more = "  seki -n demo logs chat-0 --follow\n",
     .run = cli_logs,
     .flags = logs_flags},
    {.name = "cluster create",
     .args = "NAME",
     .help = "make a Kubernetes cluster, and wait until it is ready",
     .more = "Each stage is told on stderr with the time that it took. kubectl apply of a Cluster does the same.\n\n"
             "  seki -n demo cluster create shop\n"
             "  seki -n demo cluster create shop --size Medium --service-cidr 10.112.0.0/16 \\\n    --endpoint-name shop.k8s.example\n",
     .run = cli_cluster_create,
     .flags = cluster_create_flags},
    {.name = "cluster kubeconfig",
     .args = "NAME",
     .help = "the kubeconfig of a cluster's administrator, or of somebody else",
     .more = "A user made with --user may do what the cluster's roles allow to the name and its groups: nothing until one is bound. The key is made here and kept nowhere else.\n\n"
             "  seki -n demo cluster kubeconfig shop --out shop.kubeconfig\n"
             "  kubectl --kubeconfig shop.kubeconfig get namespaces\n"
             "  seki -n demo cluster kubeconfig shop --oidc --out shop.kubeconfig\n"
             "  seki -n demo cluster kubeconfig shop --user ann --group team-a --life 8h --out ann.kubeconfig\n",
     .run = cli_cluster_kubeconfig,
     .flags = cluster_kubeconfig_flags},
    {.name = "cluster logs",
     .args = "NAME",
     .help = "what a component of a cluster's control plane says",
     .more = "  seki -n demo cluster logs shop --component scheduler --follow\n",
     .run = cli_cluster_logs,
     .flags = cluster_logs_flags},
    {.name = "cluster audit",
     .args = "NAME",
     .help = "who did what in a cluster: its API server's audit log, a JSON object a line",
     .more = "How much of each request is in it says spec.audit.policy of the Cluster.\n\n"
             "  seki -n demo cluster audit shop --lines 20\n",
     .run = cli_cluster_audit,
     .flags = cluster_audit_flags},
    {.name = "cluster delete",
     .args = "NAME",
     .help = "delete a cluster with all that is in it, and wait until nothing is left",
     .run = cli_cluster_delete,
     .flags = cluster_delete_flags},
    {.name = "cluster backup",
     .args = "NAME",
     .help = "back up a cluster's store now, and wait until that is done",
     .more = "Backups are taken by themselves, too: spec.backup of the Cluster.\n\n"
             "  seki -n demo cluster backup shop\n",
     .run = cli_cluster_backup,
     .flags = cluster_delete_flags},
    {.name = "cluster backups", .args = "NAME", .help = "the backups of a cluster, newest first", .run = cli_cluster_backups},
    {.name = "cluster restore",
     .args = "NAME",
     .help = "put a cluster back to one of its backups, and wait until it is ready",
     .more = "What was written to it since is lost. A backup that is no good is refused, and nothing is changed. Its components stop meanwhile; clients list anew afterwards.\n\n"
             "  seki -n demo cluster backups shop\n"
             "  seki -n demo cluster restore shop --from 20260131-235959-123\n",
     .run = cli_cluster_restore,
     .flags = cluster_restore_flags},
    {.name = "cluster upgrade",
     .args = "NAME",
     .help = "bring a cluster to the next minor version of Kubernetes, and wait until that is done",
     .more = "Each stage is told on stderr: a backup first, then store, API server, controllers, scheduler and nodes. What stands in the way is said before anything is changed.\n"
             "kubectl patch of spec.version does the same; this one also lets an upgrade begin again that a restore has ended.\n"
             "Where the cluster has a maintenance window that is not open, the upgrade begins in it by itself: that is told, with the time, and not waited for.\n\n"
             "  seki -n demo cluster upgrade shop --version 1.37\n"
             "  seki -n demo cluster upgrade shop --version 1.37 --now\n",
     .run = cli_cluster_upgrade,
     .flags = cluster_upgrade_flags},
    {.name = "tenant create",
     .args = "NAME",
     .help = "make a customer, with a first project, roles and an admin",
     .more = "All of it is made, or nothing.\n\n"
             "  seki tenant create acme --display-name \"Acme K.K.\" --admin alice@acme.example \\\n    --kubeconfig-out acme.kubeconfig\n"
             "  seki tenant create acme --limit projects=5 --limit objects=2000 \\\n    --limit modelendpoints.seki.cloud=10\n",
     .run = cli_tenant_create,
     .flags = tenant_flags},
    {.name = "tenant list", .args = "", .help = "the customers, whether they are active, and how many projects they have of how many", .run = cli_tenant_list},
    {.name = "tenant suspend", .args = "NAME", .help = "refuse all new requests of a customer; running answers end", .run = cli_tenant_suspend},
    {.name = "tenant resume", .args = "NAME", .help = "let a suspended customer go on", .run = cli_tenant_resume},
    {.name = "tenant close",
     .args = "NAME",
     .help = "keep a customer's usage, and delete all its projects for good",
     .more = "Waits until nothing is left. Usage and audit records stay in the ledgers. Where the audit ledger can be read, a statement is printed, and written to the export: what was deleted by\n"
             "kind and number, and the last record of the ledger with its hash, for `seki audit verify --record`.\n\n"
             "  seki tenant close acme --export acme-usage.json --yes\n",
     .run = cli_tenant_close,
     .flags = close_flags},
    {.name = "audit verify",
     .args = "[DIRECTORY]",
     .help = "check the audit ledger: nothing changed, nothing missing",
     .more = "Works on the files, or on a copy of them, without a daemon; names the first bad record. DIRECTORY has the files audit.000001 …\n"
             "(default: $SEKI_LEDGER_DIR, /var/lib/seki/ledger).\n",
     .run = cli_audit_verify,
     .flags = audit_verify_flags,
     .complete = "@dir"},
    {.name = "audit list",
     .args = "[DIRECTORY]",
     .help = "who did what, with what result",
     .more = "With --tenant and no directory it asks the API: what a tenant's admins and operators may read. Else it reads the files (see seki audit verify).\n"
             "Long names lose their middle. With -o wide they are whole, and there are how often it happened (TIMES) and by which RULE, too; with -o json all that the records have.\n\n"
             "  seki audit list --tenant acme\n"
             "  seki audit list /var/lib/seki/ledger -o wide\n",
     .run = cli_audit_list,
     .flags = audit_flags,
     .complete = "@dir",
     .wide = true},
    {.name = "audit export",
     .args = "[DIRECTORY]",
     .help = "the audit ledger as JSON lines, for a logging system",
     .more = "One event a line, in OCSF's class API Activity. Go on where the last export ended with --after. With --tenant and no directory it asks\nthe API.\n\n"
             "  seki audit export --after 1200 > events.jsonl\n",
     .run = cli_audit_export,
     .flags = export_flags,
     .complete = "@dir"},
    {.name = "support-bundle",
     .args = "[FILE]",
     .help = "what a support case needs, without anything of a customer",
     .more = "Runs on the machine, as root. FILE (default: seki-support-TIME.tar.gz) is made with mode 0600; nothing is overwritten. What could not be had is named in its\n"
             "manifest.json. No prompt, answer, key, token, Secret or private key is in it.\n\n"
             "  seki support-bundle /root/case-1234.tar.gz\n",
     .run = cli_support_bundle,
     .flags = support_flags},
    {.name = "login",
     .args = "",
     .help = "log in at an issuer, and have kubectl and seki use that",
     .more = "With a browser on this machine, or (device flow) with one anywhere. Tokens are kept in ~/.cache/seki/login and refreshed as long as the issuer allows it.\n\n"
             "  seki login --server https://cloud.example:6440 --ca ca.crt \\\n    --issuer https://id.example --client-id seki\n"
             "  kubectl get modelendpoints\n",
     .run = cli_login,
     .flags = login_flags},
    {.name = "logout", .args = "", .help = "forget the tokens of the current context's user, here and at the issuer", .run = cli_logout, .flags = logout_flags},
    {.name = "credential",
     .args = "",
     .help = "print a token for kubectl: its exec plugin, as login writes it into a kubeconfig",
     .run = cli_credential,
     .flags = credential_flags},
    {.name = "break-glass",
     .args = "",
     .help = "in an emergency: access to everything for a while, on the machine of sekid",
     .more = "It needs no issuer and no API that answers, but the data directory. It ends by itself, and does not go unnoticed.\n\n"
             "  eval \"$(sudo seki break-glass --for 30m --reason \"the issuer is down, ticket 4711\")\"\n",
     .run = cli_break_glass,
     .flags = break_glass_flags},
    {.name = "secrets rotate",
     .args = "",
     .help = "give tenants new keys, and wait until all secrets are sealed with them",
     .more = "What is stored is sealed anew in the background, whether this waits or not. An older key goes when history needs it no more.\n\n"
             "  seki secrets rotate --tenant acme\n",
     .run = cli_secrets_rotate,
     .flags = rotate_flags},
    {.name = "secrets status",
     .args = "",
     .help = "the keys that secrets are sealed with in the store, by tenant",
     .run = cli_secrets_status,
     .flags = secrets_flags},
    {.name = "backup keygen", .args = "FILE", .help = "make the key that seals backups", .run = cli_backup_keygen, .complete = "@file"},
    {.name = "backup verify", .args = "FILE", .help = "read a backup: whole, and with this key?", .run = cli_backup_verify, .flags = verify_flags, .complete = "@file"},
    {.name = "backup",
     .args = "FILE|DIRECTORY",
     .help = "store, ledgers, keys: one sealed file, while sekid runs",
     .more = "As the owner of the data directory, on its machine. In a DIRECTORY the file is named after the time.\n\n"
             "  seki backup keygen backup.key\n"
             "  seki backup seki.backup --key backup.key\n"
             "  seki backup /var/backups/seki --key backup.key --keep 14\n",
     .run = cli_backup,
     .flags = backup_flags,
     .complete = "@file"},
    {.name = "restore",
     .args = "FILE",
     .help = "put a backup in place on an empty machine",
     .more = "All is verified before anything is in place; what is there already is never written over.\n\n"
             "  seki restore seki.backup --key backup.key --data /var/lib/seki\n",
     .run = cli_restore,
     .flags = restore_flags,
     .complete = "@file"},
    {.name = "upgrade status", .args = "", .help = "whether there is a way back from the last upgrade", .run = cli_upgrade_status, .flags = upgrade_flags},
    {.name = "upgrade finish", .args = "", .help = "the upgrade is to stay: remove what a rollback needs", .run = cli_upgrade_finish, .flags = upgrade_flags},
    {.name = "rollback",
     .args = "",
     .help = "give the store back to the earlier release, as it was before the upgrade",
     .more = "For an upgrade that changed the store's format; after others the earlier release is simply installed. As the owner of the data directory, with sekid stopped and\n"
             "before the earlier release is installed. What was written since the upgrade is lost; usage stays counted, and the audit ledger tells of it.\n\n"
             "  seki upgrade status\n"
             "  seki rollback --yes\n",
     .run = cli_rollback,
     .flags = rollback_flags},
    {.name = "completion",
     .args = "bash|zsh|fish",
     .help = "print shell completion",
     .more = "  source <(seki completion bash)\n"
             "  source <(seki completion zsh)\n"
             "  seki completion fish | source\n",
     .run = cli_completion,
     .complete = "bash zsh fish"},
    {.name = "version", .args = "", .help = "print the version", .run = cli_version},
};
const size_t cli_verb_count = ARRAY_LEN(cli_verbs);
