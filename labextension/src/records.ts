/**
 * What the server extension tells the page: the JSON of `/dstack-jupyter/…`.
 *
 * `dstack_jupyter/server/rows.py` makes these rows; a test compares the names of their fields.
 */

/** Times are ISO 8601 with a zone; prices are USD per hour, costs USD, sizes GB. */
export type Time = string;

export interface IPort {
  /** The port inside the container. */
  port: number;
  /** The port of the server's computer. */
  local_port: number;
  /** As the server's computer reaches it. */
  url: string;
  /** Below Jupyter's base URL: works wherever the page works. */
  proxy: string;
}

export interface IRunRow {
  name: string;
  type: 'task' | 'service' | 'dev-environment';
  status:
    | 'pending'
    | 'submitted'
    | 'provisioning'
    | 'running'
    | 'terminating'
    | 'terminated'
    | 'failed'
    | 'done';
  finished: boolean;
  /** Why it ended, as a sentence's end: "ended by itself with exit code 0". */
  reason: string | null;
  detail: string | null;
  /** Why it waits, while it does. */
  waiting: string | null;
  submitted_at: Time;
  started_at: Time | null;
  finished_at: Time | null;
  /** USD per hour, now. */
  price: number;
  /** USD until `as_of`; grows by `price` from then on. */
  cost: number;
  as_of: Time;
  exit_code: number | null;
  backend: string | null;
  /** "2 CPU, 4 GB, A100:80GB": what its place has. */
  resources: string | null;
  /** The project's folder that it was submitted from. */
  project: string | null;
  ports: IPort[];
}

export interface IReplicaRow {
  job: string;
  state: string;
  in_flight: number;
  trouble: string | null;
}

export interface IServiceRow {
  name: string;
  status: IRunRow['status'];
  /** Its own address; null while no gateway runs. */
  url: string | null;
  /** Below Jupyter's base URL, with the token put in by the server. */
  proxy: string;
  model: string | null;
  desired: number;
  ready: number;
  replicas: IReplicaRow[];
  /** Requests per second over the last ten seconds. */
  rps: number;
  in_flight: number;
  held: number;
  /** Seconds to the first byte; null without requests. */
  p50: number | null;
  p95: number | null;
}

export interface IModelRow {
  name: string;
  runs: string[];
  ready_replicas: number;
}

/** One thing that was looked at on a machine. */
export interface ICheckRow {
  /** "✓", "✗" where nothing can run before it is mended, "!" where it is worth knowing. */
  mark: string;
  text: string;
  /** What mends it, to be copied; null where there is nothing to mend. */
  fix: string | null;
}

export interface IMachineRow {
  name: string;
  /** The fleet that it belongs to, and its number there; null on this computer. */
  fleet: string | null;
  number: number;
  /** How it is reached by SSH: "ubuntu@10.0.0.5"; null on this computer. */
  host: string | null;
  /** How it stands: "ready", "in use", "not usable"; and a sign for that. */
  word: string;
  sign: string;
  /** More than the word says: since when it does not answer, and why. */
  note: string | null;
  /** Into how many parts it is split for several runs, and how many are held. */
  blocks: number;
  blocks_used: number;
  /** What was found when somebody looked into it last. */
  checks: ICheckRow[];
  backend: string;
  region: string;
  instance_type: string;
  status:
    'pending' | 'provisioning' | 'idle' | 'busy' | 'terminating' | 'terminated';
  cpus: number;
  memory_gb: number;
  disk_gb: number | null;
  gpus: string[];
  /** USD per hour. */
  price: number;
  /** When it is given back if nothing uses it; null where it never is. */
  idle_until: Time | null;
  /** Names of the runs on it. */
  runs: string[];
}

export interface IOfferRow {
  id: string;
  backend: string;
  region: string;
  instance_type: string;
  resources: string;
  price: number;
  spot: boolean;
  availability: string;
  /** What to know before it is chosen: "this image is not here yet". */
  notes: string[];
  /** Why it does not fit; empty for those that do. */
  reasons: string[];
}

/**
 * `POST /dstack-jupyter/offers` with any of `text` (a cell), `yaml`, and over it `gpu`, `cpu`,
 * `memory`, `disk`, `max_price`, `spot_policy` (as on the command line), `backends`, `regions`,
 * `instance_types` (lists). 503 while no engine runs.
 */
export interface IOffers {
  offers: IOfferRow[];
  refused: IOfferRow[];
  total_offers: number;
  total_refused: number;
  remarks: string[];
}

/** `GET /dstack-jupyter/state`: all, as it stands. */
export interface IState {
  /** "down" comes with empty lists, and is no error. */
  engine: 'running' | 'down';
  /** All runs that are kept, the newest first. */
  runs: IRunRow[];
  services: IServiceRow[];
  models: IModelRow[];
  machines: IMachineRow[];
  /** The base URL of the models for programs on the server's computer; null without a gateway. */
  models_url: string | null;
}

/**
 * An event of `CHANGES`, pushed over Jupyter's event channel; at most four a second.
 * Lists hold only what has changed, whole rows; `reload` says that too much has.
 * The last row of what is no more: a run's and a service's has a final status (a service's own row
 * is not told then), a machine's says "terminated", a model's has no runs.
 */
export interface IChange {
  engine?: 'running' | 'down';
  runs?: IRunRow[];
  /** Names of runs that were deleted. */
  deleted?: string[];
  services?: IServiceRow[];
  models?: IModelRow[];
  machines?: IMachineRow[];
  reload?: boolean;
}

/** The schema of the events that carry an `IChange`. */
export const CHANGES = 'https://schema.dstack-jupyter/changes/v1';

/** `GET /dstack-jupyter/version` */
export interface IVersion {
  version: string;
  /** The engine's; null while none runs. */
  engine: string | null;
}

/**
 * A line of `GET /dstack-jupyter/runs/<name>/logs?offset=&follow=&tail=&replica=` (NDJSON).
 *
 * An empty line says that the server is still there.
 */
export interface ILogPiece {
  /** Where the next piece begins, in bytes. */
  offset: number;
  at: Time;
  text: string;
  /** Where this piece began, in bytes: more than 0 in the first one where `tail` left some out. */
  start?: number;
  /** Which job printed it, "train-0-0/2": the offsets of another begin at 0 again. */
  job?: string;
  /** "stdout" where it is left out; "cut" is no output: the engine says that some was left out. */
  stream?: 'stdout' | 'stderr' | 'cut';
}

/** `GET /dstack-jupyter/runs/<name>/cell`: a cell that starts it again. */
export interface ICell {
  text: string;
}

/** `POST /dstack-jupyter/check` with `{"text": cell}` answers a list of what is wrong with it. */
export interface IProblem {
  /** From 1, in the cell. */
  line: number;
  column: number;
  /** The key path, "resources.gpu". */
  key: string;
  message: string;
}

/** `GET /dstack-jupyter/reference`: help for keys, by command and key path. */
export interface IReference {
  /** "task" → "resources.gpu" → its one-line help. */
  [command: string]: { [path: string]: string };
}

/**
 * `POST /dstack-jupyter/fleets/<name>/examine` has a fleet's machines looked into now,
 * `DELETE /dstack-jupyter/fleets/<name>[?instance=<number>]` lets it go, or one of them; both answer
 * nothing, before it is done.
 */

/** `POST /dstack-jupyter/engine/start` answers an `IVersion`, `POST …/rerun` the new `IRunRow`. */

/** An error as every route answers it. */
export interface IRefusal {
  message: string;
  hint: string | null;
  code: string;
}
