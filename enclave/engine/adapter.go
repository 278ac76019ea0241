package engine

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/evidence"
)

// CodeModel is the code of a model pack that is of no use to an engine.
const CodeModel = "engine.model"

// Adapter is what the image knows about a kind of engine: how it is started,
// when it is ready, what may be asked of it, and how it counts. It is measured
// with the supervisor; a config can only choose among what is here.
//
// llama-server was run (llama.cpp 0.7.0); vLLM and SGLang are from their
// documentation and sources and were never run here.
type Adapter interface {
	// Kind is the name that a config has.
	Kind() string
	// Argv returns the command line for a config and a model's source, or every
	// argument that the allow-list refuses.
	Argv(c *evidence.Config, source string) ([]string, error)
	// Source returns what of a model pack the engine is given: a file's name,
	// or "." for all of it.
	Source(pack fs.FS) (string, error)
	// Shape fills in what the kind's container needs.
	Shape(c *Container)
	// Deadline is the time from start to readiness.
	Deadline() time.Duration
	// Ready returns nil once the engine really answers for a model.
	Ready(ctx context.Context, a *API, model string) error
	// Alive returns nil while a ready engine goes on to answer.
	Alive(ctx context.Context, a *API) error
	// Watch is the time between two looks whether it is alive.
	Watch() time.Duration
	// Port is the TCP port on the container's loopback device, or 0 where the
	// engine listens on the UNIX socket.
	Port() int
	// Serves says whether a route may be asked for: the others of an engine
	// show prompts or change it.
	Serves(method, route string) bool
	// Private is what every request for an answer has beside what its client
	// asked for, as members of a JSON object: it keeps clients apart that the
	// engine by itself would not.
	Private() string
	// Metrics reads the engine's own figures.
	Metrics(ctx context.Context, a *API) (Metrics, error)
}

// AdapterFor returns the adapter of a kind.
func AdapterFor(kind string) (Adapter, error) {
	for _, k := range kinds {
		if k.kind == kind {
			return k, nil
		}
	}
	return nil, refuse("engine kind %.64q is unknown", kind)
}

// kind is an adapter by table: the engines differ in words and times, not in
// what is done with them.
type kind struct {
	kind     string
	command  []string // program and what always comes first
	fixed    func(model, source string) []string
	flags    map[string]check // flags a config may set; each takes one value
	defaults [][2]string      // set where a config is silent
	source   func(fs.FS) (string, error)
	shape    func(*Container)
	deadline time.Duration
	watch    time.Duration
	health   time.Duration // of one probe
	port     int
	routes   []string
	private  string
	names    names
	memory   string // flag that has an engine's part of a GPU's memory; empty: none
	parallel string // flag that has over how many GPUs a layer is spread
}

// routes of the OpenAI API that all of the engines have.
var openAI = []string{"POST /v1/chat/completions", "POST /v1/completions", "POST /v1/embeddings"}

// Kind implements Adapter.
func (k *kind) Kind() string { return k.kind }

// Source implements Adapter.
func (k *kind) Source(pack fs.FS) (string, error) { return k.source(pack) }

// Deadline implements Adapter.
func (k *kind) Deadline() time.Duration { return k.deadline }

// Watch implements Adapter.
func (k *kind) Watch() time.Duration { return k.watch }

// Port implements Adapter.
func (k *kind) Port() int { return k.port }

// Private implements Adapter.
func (k *kind) Private() string { return k.private }

// Shape implements Adapter.
func (k *kind) Shape(c *Container) {
	c.PIDs = 512
	if k.shape != nil {
		k.shape(c)
	}
}

// Serves implements Adapter.
func (k *kind) Serves(method, route string) bool {
	return slices.Contains(k.routes, method+" "+route)
}

// Ready implements Adapter.
func (k *kind) Ready(ctx context.Context, a *API, model string) error {
	if err := k.Alive(ctx, a); err != nil {
		return err
	}
	return a.answers(ctx, model)
}

// Alive implements Adapter.
func (k *kind) Alive(ctx context.Context, a *API) error {
	ctx, cancel := context.WithTimeout(ctx, k.health)
	defer cancel()
	_, err := a.do(ctx, "GET", "/health", nil)
	return err
}

// gguf returns the name of the model's file in a pack: its only .gguf file, or
// the first of a set that is split.
func gguf(pack fs.FS) (string, error) {
	entries, err := fs.ReadDir(pack, ".")
	if err != nil {
		return "", fmt.Errorf("listing the model pack: %w", err)
	}
	var found []string
	for _, e := range entries {
		if e.Type().IsRegular() && strings.HasSuffix(e.Name(), ".gguf") {
			found = append(found, e.Name())
		}
	}
	if len(found) == 1 || len(found) > 1 && strings.Contains(found[0], "-00001-of-") {
		return found[0], nil
	}
	return "", fault.New(fault.ExitRefused, CodeModel, "build the model pack with one .gguf file, or one split set",
		"looking for the model: %d .gguf files in the pack", len(found))
}

// transformers wants a directory as Hugging Face's libraries write it. Pickled
// weights and code of the model's own are refused: loading either runs whatever
// its author wrote.
func transformers(pack fs.FS) (string, error) {
	entries, err := fs.ReadDir(pack, ".")
	if err != nil {
		return "", fmt.Errorf("listing the model pack: %w", err)
	}
	var config, weights bool
	for _, e := range entries {
		switch ext := path.Ext(e.Name()); {
		case e.Name() == "config.json" && e.Type().IsRegular():
			config = true
		case ext == ".safetensors" && e.Type().IsRegular():
			weights = true
		case ext == ".bin" || ext == ".pt" || ext == ".pth" || ext == ".pkl" || ext == ".py":
			return "", fault.New(fault.ExitRefused, CodeModel, "leave it out of the pack; weights go into .safetensors files",
				"looking for the model: the pack holds %.100q, which can run code", e.Name())
		}
	}
	if !config || !weights {
		return "", fault.New(fault.ExitRefused, CodeModel, "build the model pack with config.json and .safetensors files at its top",
			"looking for the model: config.json there: %v, .safetensors files there: %v", config, weights)
	}
	return ".", nil
}
