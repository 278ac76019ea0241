package evidence

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"cocoon/internal/jcs"
	"cocoon/internal/lazyre"
	"cocoon/measurements/digest"
)

// Roles and engine kinds that a config may name.
const (
	RoleWorker        = "worker"
	EngineLlamaServer = "llama-server"
	EngineVLLM        = "vllm"
	EngineSGLang      = "sglang"
	GPUModeNone       = "none"
	GPUModeOn         = "on"    // confidential computing on, each GPU for itself
	GPUModePPCIE      = "ppcie" // protected PCIe: a board of 8 GPUs and 4 switches
)

// Kinds of machines that a config may name.
const (
	PlatformTDX  = "tdx"
	PlatformSNP  = "snp"
	PlatformVTPM = "vtpm"
)

// PlatformOf returns the kind of machine that shows CPU evidence of a type;
// empty for types that no machine of ours shows.
func PlatformOf(cpuType string) string {
	switch cpuType {
	case TypeTDX:
		return PlatformTDX
	case TypeSNP:
		return PlatformSNP
	case TypeTPM:
		return PlatformVTPM
	}
	return ""
}

// Verity fixes the bytes of a read-only disk: the parameters of its dm-verity
// target (SHA-256, 4096-byte data and hash blocks, hash format 1). The hash
// tree follows the data on the same disk, without a superblock.
type Verity struct {
	Root       digest.SHA256 `json:"root"`
	Salt       digest.SHA256 `json:"salt"`
	DataBlocks uint64        `json:"data_blocks"`
}

// Config is the guest's configuration: closed, typed, measured before any key
// is derived (DESIGN section 4). What an operator may change at any time is in
// Operator instead.
type Config struct {
	Version int    `json:"version"` // 1
	Role    string `json:"role"`
	// Platform is the only kind of machine that may run this config: tdx, snp
	// or vtpm; empty: any. The guest decides by the hardware what it is.
	Platform string      `json:"platform,omitempty"`
	Model    ConfigModel `json:"model"`
	// Models are further models that the machine serves beside Model, each from a
	// pack and an engine of its own, and each with evidence and a verdict of its own,
	// whose claims name it. What holds for Model's pack in measurements, manifest
	// and registry holds for each of these, in the evidence for any of them.
	Models    []ConfigModel `json:"models,omitempty"`
	Engine    ConfigEngine  `json:"engine"`
	GPUs      ConfigGPUs    `json:"gpus"`
	NetworkID int32         `json:"network_id"` // TON global id, 0 without a ledger
	Registry  string        `json:"registry"`   // TON address of the registry, empty without a ledger
	// InitBlock is the key block that proofs of the registry's state start at;
	// nil: the host's word for it, which is too little for a hand-over.
	InitBlock *MasterBlock `json:"init_block,omitempty"`
	// Sealer is the SGX enclave that seals the keys of TDs; nil: none does.
	Sealer *SealingEnclave `json:"sealer,omitempty"`
}

// MasterBlock is a block of the masterchain.
type MasterBlock struct {
	Seqno    uint32        `json:"seqno"`
	RootHash digest.SHA256 `json:"root_hash"`
	FileHash digest.SHA256 `json:"file_hash"`
}

// SealingEnclave says which SGX enclave is trusted with a TD's sealed keys.
type SealingEnclave struct {
	Signer  digest.SHA256 `json:"signer"` // MRSIGNER
	Product uint16        `json:"product"`
	MinSVN  uint16        `json:"min_svn"` // at least 1
}

// ConfigModel is the model pack and the name under which it is served.
type ConfigModel struct {
	Name   string `json:"name"`
	Verity Verity `json:"verity"`
	// KeySHA256 names the key of an encrypted pack (modelpack.Key.ID), which its
	// owner releases to this enclave alone; nil: the pack is plain. Verity speaks
	// of the plain bytes in either case.
	KeySHA256 *digest.SHA256 `json:"key_sha256,omitempty"`
}

// ServedModels returns every model of the config in its order.
func (c *Config) ServedModels() []ConfigModel {
	return append([]ConfigModel{c.Model}, c.Models...)
}

// checkModels checks the models' keys and the further models. Which GPUs an engine
// has follows from the config alone (ConfigGPUs.Of), so that it is measured.
func (c *Config) checkModels(bad func(format string, args ...any)) {
	all := c.ServedModels()
	if len(all) > MaxModels {
		bad("%d models, at most %d", len(all), MaxModels)
		return
	}
	if n := c.GPUs.Count; n > 0 && n%len(all) != 0 && len(all)%n != 0 {
		bad("%d models cannot be divided evenly among %d GPUs", len(all), n)
	}
	for i, m := range all {
		if m.KeySHA256 != nil && m.KeySHA256.IsZero() {
			bad("the key of model %q has no name", m.Name)
		}
		if i == 0 {
			continue // looked at with the rest of the config
		}
		if !nameRE().MatchString(m.Name) {
			bad("model name %q is not of the form a-z0-9._-", m.Name)
		}
		if m.Verity.Root.IsZero() || m.Verity.DataBlocks == 0 || m.Verity.DataBlocks > 1<<36 {
			bad("verity parameters of model %d are out of range", i+1)
		}
		for _, other := range all[:i] {
			if other.Name == m.Name || other.Verity.Root == m.Verity.Root {
				bad("model %q is there twice, by name or by content", m.Name)
			}
		}
	}
}

// ConfigEngine is the inference engine: its root file system's pack and its
// arguments, which the supervisor checks against the allow-list of its kind.
// The engine's image digest is the verity root of its pack.
type ConfigEngine struct {
	Kind   string   `json:"kind"`
	Verity Verity   `json:"verity"`
	Args   []string `json:"args"`
}

// ConfigGPUs is what the supervisor must find, and find attested.
type ConfigGPUs struct {
	Count int    `json:"count"`
	Mode  string `json:"mode"` // none, on, ppcie
}

// Switches returns how many NVSwitches attest beside the GPUs: those of a board
// in protected PCIe, where NVLink is trusted.
func (g ConfigGPUs) Switches() int {
	if g.Mode == GPUModePPCIE {
		return 4
	}
	return 0
}

// Of returns the GPUs, counted from 0, that model i of n computes on in a valid
// config, and how many models share each of these: GPUs are divided evenly among
// models, or models among GPUs where there are more of them.
func (g ConfigGPUs) Of(i, n int) (gpus []int, sharing int) {
	if g.Count == 0 {
		return nil, 0
	}
	if g.Count < n {
		sharing = n / g.Count
		return []int{i / sharing}, sharing
	}
	each := g.Count / n
	for k := range each {
		gpus = append(gpus, i*each+k)
	}
	return gpus, 1
}

var nameRE = lazyre.New(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// ParseConfig reads a config, which must be in RFC 8785 form, and validates
// it.
func ParseConfig(b []byte) (*Config, error) {
	var c Config
	if err := jcs.DecodeCanonical(b, MaxConfig, &c); err != nil {
		return nil, fmt.Errorf("parsing config: %w", err)
	}
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("parsing config: %w", err)
	}
	return &c, nil
}

// Validate reports every field that is out of its range.
func (c *Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Version != 1 {
		bad("config version %d, want 1", c.Version)
	}
	if c.Role != RoleWorker {
		bad("role %q is unknown", c.Role)
	}
	switch c.Platform {
	case "", PlatformTDX, PlatformSNP, PlatformVTPM:
	default:
		bad("platform %.32q is unknown", c.Platform)
	}
	if !nameRE().MatchString(c.Model.Name) {
		bad("model name %q is not of the form a-z0-9._-", c.Model.Name)
	}
	switch c.Engine.Kind {
	case EngineLlamaServer:
	case EngineVLLM, EngineSGLang:
		if c.GPUs.Mode == GPUModeNone {
			bad("engine %s computes on GPUs, and gpu mode is none", c.Engine.Kind)
		}
	default:
		bad("engine kind %q is unknown", c.Engine.Kind)
	}
	if len(c.Engine.Args) > 64 {
		bad("%d engine arguments, at most 64", len(c.Engine.Args))
	}
	for _, a := range c.Engine.Args {
		if len(a) > 256 {
			bad("an engine argument of %d bytes, at most 256", len(a))
		}
	}
	for i, v := range []*Verity{&c.Model.Verity, &c.Engine.Verity} {
		if v.Root.IsZero() || v.DataBlocks == 0 || v.DataBlocks > 1<<36 {
			bad("%s verity parameters are out of range", []string{"model", "engine"}[i])
		}
	}
	c.checkModels(bad)
	switch c.GPUs.Mode {
	case GPUModeNone:
		if c.GPUs.Count != 0 {
			bad("gpu mode none with %d gpus", c.GPUs.Count)
		}
	case GPUModeOn, GPUModePPCIE:
		if c.GPUs.Count < 1 || c.GPUs.Count > MaxGPUs {
			bad("gpu count %d, want 1 to %d", c.GPUs.Count, MaxGPUs)
		}
	default:
		bad("gpu mode %q is unknown", c.GPUs.Mode)
	}
	if b := c.InitBlock; b != nil && (b.RootHash.IsZero() || b.FileHash.IsZero() || c.Registry == "") {
		bad("init block without hashes, or without a registry")
	}
	if e := c.Sealer; e != nil && (e.Signer.IsZero() || e.MinSVN == 0) {
		bad("sealing enclave without a signer or a least version")
	}
	if len(c.Registry) > 128 {
		bad("registry address of %d bytes", len(c.Registry))
	}
	return errors.Join(errs...)
}

// Hash returns the SHA-256 of the JCS of the config.
func (c *Config) Hash() (digest.SHA256, error) {
	sum, err := jcs.Hash(c)
	return digest.SHA256(sum), err
}

// Operator is operator.json: what the machine's operator may change at any
// time. It is untrusted input that decides nothing about secrecy or identity.
type Operator struct {
	Version  int      `json:"version"`  // 1
	Payout   string   `json:"payout"`   // TON address; it is bound by the claims
	Verifier string   `json:"verifier"` // base URL of the verifier service
	Gateways []string `json:"gateways"` // host:port of each gateway to dial
	// Handover is host:port of whoever carries a hand-over of the data disk's
	// key between this machine and the next; Takeover makes this machine the
	// next: it takes the key, gives the host a ticket for it, and ends.
	Handover string `json:"handover,omitempty"`
	Takeover bool   `json:"takeover,omitempty"`
	// Sealer is host:port of the sealing enclave that the config names.
	Sealer string `json:"sealer,omitempty"`
	// ModelKeys is the base URL of the service that releases the keys of
	// encrypted model packs. The address only finds it: a key is believed by the
	// name that the config has for it.
	ModelKeys string `json:"model_keys,omitempty"`
	// Price is nanoton per million tokens of every kind; 0 asks for each job's
	// own cap.
	Price uint64 `json:"price,omitempty"`
	// Models has, by name, what differs for one of several models.
	Models map[string]OperatorModel `json:"models,omitempty"`
	// Worker is the address of the machine's worker contract, whose boot
	// generation the data disk is tied to from then on; empty for none.
	Worker string `json:"worker,omitempty"`
	Limits Limits `json:"limits"`
}

// MaxPrice bounds a price: a million TON for a million tokens.
const MaxPrice = 1e15

// OperatorModel is what an operator says of one model; what is left out is as
// for all.
type OperatorModel struct {
	Price     uint64 `json:"price,omitempty"`
	ModelKeys string `json:"model_keys,omitempty"`
}

// PriceOf returns the price of a model, 0 for each job's own cap.
func (o *Operator) PriceOf(model string) uint64 {
	return cmp.Or(o.Models[model].Price, o.Price)
}

// ModelKeysOf returns the base URL of the service that releases a model's key.
func (o *Operator) ModelKeysOf(model string) string {
	return cmp.Or(o.Models[model].ModelKeys, o.ModelKeys)
}

// CheckModels refuses what is said of a model that the config does not have: a
// name with a slip in it would sell the model at another price.
func (o *Operator) CheckModels(c *Config) error {
	for name := range o.Models {
		if !slices.ContainsFunc(c.ServedModels(), func(m ConfigModel) bool { return m.Name == name }) {
			return fmt.Errorf("parsing operator config: model %.64q is none of the config's", name)
		}
	}
	return nil
}

// Limits bound what the worker takes on.
type Limits struct {
	MaxRequests int `json:"max_requests"`                  // that run at a time, 0 for the default
	MaxWaiting  int `json:"max_waiting,omitempty"`         // that wait for one of these to end, 0 for the default
	MaxPerJob   int `json:"max_waiting_per_job,omitempty"` // of one job that wait, 0 for the default
}

// maxRequests bounds each of Limits.
const maxRequests = 4096

func (l *Limits) check() error {
	for _, n := range []int{l.MaxRequests, l.MaxWaiting, l.MaxPerJob} {
		if n < 0 || n > maxRequests {
			return fmt.Errorf("a limit of %d requests, want 0 to %d", n, maxRequests)
		}
	}
	return nil
}

// ParseOperator reads operator.json, strictly.
func ParseOperator(b []byte) (*Operator, error) {
	var o Operator
	if err := jcs.Decode(b, MaxConfig, &o); err != nil {
		return nil, fmt.Errorf("parsing operator config: %w", err)
	}
	if o.Version != 1 {
		return nil, fmt.Errorf("parsing operator config: version %d, want 1", o.Version)
	}
	if o.Takeover && o.Handover == "" {
		return nil, errors.New("parsing operator config: takeover without handover")
	}
	if o.Price > MaxPrice {
		return nil, fmt.Errorf("parsing operator config: price of %d nanoton, at most %d", o.Price, uint64(MaxPrice))
	}
	if len(o.Models) > MaxModels {
		return nil, fmt.Errorf("parsing operator config: %d models, at most %d", len(o.Models), MaxModels)
	}
	for name, m := range o.Models {
		if m.Price > MaxPrice {
			return nil, fmt.Errorf("parsing operator config: price of %d nanoton for model %.64q, at most %d", m.Price, name, uint64(MaxPrice))
		}
	}
	if len(o.Gateways) > 16 {
		return nil, errors.New("parsing operator config: at most 16 gateways")
	}
	if err := o.Limits.check(); err != nil {
		return nil, fmt.Errorf("parsing operator config: %w", err)
	}
	return &o, nil
}
