package serve

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"cocoon/internal/jcs"
)

// Limits on requests.
const (
	MaxBody      = 4 << 20 // bytes
	maxMessages  = 4096
	maxStops     = 16
	maxTools     = 128
	maxMaxTokens = 1 << 20

	maxInputs     = 2048 // texts to embed in one request
	maxDimensions = 1 << 16
)

// DefaultMaxTokens bounds an answer whose request names no bound: there are
// models that never stop by themselves.
const DefaultMaxTokens = 4096

// promptOverhead bounds the prompt tokens that a chat template adds, in
// tokens; maxPerMessage those that it adds to each message.
const (
	promptOverhead = 1024
	maxPerMessage  = 16
)

// Codes of refused requests.
const (
	codeMalformed = "request.malformed"
	codeField     = "request.unknown_field"
	codeValue     = "request.value"
	codeModel     = "request.model_not_found"
)

// filtered is a request that may go to the engine.
type filtered struct {
	body      []byte // for the engine
	model     string // whose engine that is
	stream    bool
	wantUsage bool  // the client asked for stream_options.include_usage
	most      Usage // no answer costs more
}

// with puts members of a JSON object before those of the client's.
func (f *filtered) with(members string) {
	if members != "" {
		f.body = slices.Concat([]byte("{"+members+","), f.body[1:]) // it has a model at least
	}
}

// rule checks a field's value and says what goes to the engine: nil drops the
// field.
type rule func(raw json.RawMessage) (json.RawMessage, error)

// filter reads a request body and keeps only what the allow-list of the
// endpoint knows: an engine's own fields can change its behaviour in ways
// that nobody measured. A field that is not known at all is refused, one that
// means nothing here is dropped.
func filter(endpoint string, models []string, body []byte) (*filtered, *apiError) {
	if len(body) > MaxBody {
		return nil, badRequest(codeMalformed, "", fmt.Sprintf("the body is over %d bytes", MaxBody))
	}
	if err := jcs.Check(body); err != nil {
		return nil, badRequest(codeMalformed, "", "the body is not valid JSON: "+err.Error())
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil || fields == nil {
		return nil, badRequest(codeMalformed, "", "the body is not a JSON object")
	}
	rules := rulesFor(endpoint)
	f := &filtered{}
	out := map[string]json.RawMessage{}
	for name, raw := range fields {
		r, ok := rules[name]
		if !ok {
			return nil, badRequest(codeField, clip(name), fmt.Sprintf("field %q is not supported", clip(name)))
		}
		if isNull(raw) {
			continue // the same as an absent field, everywhere in this API
		}
		kept, err := r(raw)
		if err != nil {
			return nil, badRequest(codeValue, name, fmt.Sprintf("field %q: %s", name, err))
		}
		if kept != nil {
			out[name] = kept
		}
	}
	var apiErr *apiError
	if f.model, apiErr = checkModel(out["model"], models); apiErr != nil {
		return nil, apiErr
	}
	need := map[string]string{PathChat: "messages", PathCompletions: "prompt", PathEmbeddings: "input"}[endpoint]
	if out[need] == nil {
		return nil, badRequest(codeValue, need, fmt.Sprintf("field %q is required", need))
	}
	if endpoint == PathEmbeddings {
		// No answer but numbers: only the prompt costs. The quotes and commas of
		// each text stand for the tokens that begin and end it.
		f.most = Usage{Prompt: uint64(len(body)) + promptOverhead}
		return f, f.encode(out)
	}
	f.stream = string(out["stream"]) == "true"
	f.wantUsage = string(out["stream_options"]) == includeUsage
	delete(out, "stream_options")
	if f.stream {
		// Usage is what is billed, so it is always asked for and taken out
		// again where the client did not want it.
		out["stream_options"] = json.RawMessage(includeUsage)
	}
	f.most = bound(out, len(body))
	return f, f.encode(out)
}

// encode writes the body for the engine.
func (f *filtered) encode(out map[string]json.RawMessage) *apiError {
	b, err := json.Marshal(out)
	if err != nil {
		return badRequest(codeMalformed, "", "the body is not valid JSON")
	}
	f.body = b
	return nil
}

// bound returns the most that a request can cost, and makes sure that its
// answer is bounded. No tokenizer makes more tokens than bytes, and what the
// template adds is bounded for each message.
func bound(out map[string]json.RawMessage, size int) Usage {
	completion := uint64(0)
	for _, name := range []string{"max_tokens", "max_completion_tokens"} {
		var n uint64
		if json.Unmarshal(out[name], &n) == nil {
			completion = max(completion, n)
		}
	}
	if completion == 0 {
		completion = DefaultMaxTokens
		out["max_tokens"] = json.RawMessage(strconv.Itoa(DefaultMaxTokens))
	}
	var list []json.RawMessage
	_ = json.Unmarshal(out["messages"], &list) // absent in a completion
	return Usage{Prompt: uint64(size) + promptOverhead + maxPerMessage*uint64(len(list)), Completion: completion}
}

const includeUsage = `{"include_usage":true}`

func checkModel(raw json.RawMessage, models []string) (string, *apiError) {
	var name string
	if raw == nil || json.Unmarshal(raw, &name) != nil || !slices.Contains(models, name) {
		e := badRequest(codeModel, "model", fmt.Sprintf("this worker serves the model %s only", quoted(models)))
		e.status = 404
		return "", e
	}
	return name, nil
}

func quoted(names []string) string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = strconv.Quote(n)
	}
	return strings.Join(out, ", ")
}

func rulesFor(endpoint string) map[string]rule {
	if endpoint == PathEmbeddings {
		return map[string]rule{
			"model": str(128), "input": inputs, "encoding_format": oneOf("float", "base64"),
			"dimensions": integer(1, maxDimensions), "user": drop,
		}
	}
	rules := map[string]rule{
		"model":             str(128),
		"stream":            boolean,
		"stream_options":    streamOptions,
		"temperature":       number(0, 2),
		"top_p":             number(0, 1),
		"presence_penalty":  number(-2, 2),
		"frequency_penalty": number(-2, 2),
		"max_tokens":        integer(1, maxMaxTokens),
		"n":                 integer(1, 1),
		"seed":              integer(math.MinInt32, math.MaxInt32),
		"stop":              stop,
		"logit_bias":        logitBias,
		"user":              drop,
	}
	switch endpoint {
	case PathCompletions:
		rules["prompt"] = str(MaxBody)
		rules["echo"] = boolean
		rules["suffix"] = str(MaxBody)
		rules["logprobs"] = integer(0, 5)
		rules["best_of"] = integer(1, 1)
	default:
		rules["messages"] = messages
		rules["max_completion_tokens"] = integer(1, maxMaxTokens)
		rules["logprobs"] = boolean
		rules["top_logprobs"] = integer(0, 20)
		rules["tools"] = tools
		rules["tool_choice"] = toolChoice
		rules["parallel_tool_calls"] = boolean
		rules["response_format"] = responseFormat
		rules["reasoning_effort"] = oneOf("none", "minimal", "low", "medium", "high")
		for _, name := range []string{"metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "verbosity"} {
			rules[name] = drop
		}
	}
	return rules
}

func drop(json.RawMessage) (json.RawMessage, error) { return nil, nil }

func boolean(raw json.RawMessage) (json.RawMessage, error) {
	var v bool
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, fmt.Errorf("want true or false")
	}
	return json.Marshal(v)
}

func number(lo, hi float64) rule {
	return func(raw json.RawMessage) (json.RawMessage, error) {
		var v float64
		if err := json.Unmarshal(raw, &v); err != nil || v < lo || v > hi {
			return nil, fmt.Errorf("want a number from %g to %g", lo, hi)
		}
		return json.Marshal(v)
	}
}

func integer(lo, hi int64) rule {
	return func(raw json.RawMessage) (json.RawMessage, error) {
		var v int64
		if err := json.Unmarshal(raw, &v); err != nil || v < lo || v > hi {
			return nil, fmt.Errorf("want an integer from %d to %d", lo, hi)
		}
		return json.Marshal(v)
	}
}

func str(limit int) rule {
	return func(raw json.RawMessage) (json.RawMessage, error) {
		var v string
		if err := json.Unmarshal(raw, &v); err != nil || len(v) > limit {
			return nil, fmt.Errorf("want a string of at most %d bytes", limit)
		}
		return json.Marshal(v)
	}
}

func oneOf(values ...string) rule {
	return func(raw json.RawMessage) (json.RawMessage, error) {
		var v string
		if err := json.Unmarshal(raw, &v); err == nil {
			for _, w := range values {
				if v == w {
					return json.Marshal(v)
				}
			}
		}
		return nil, fmt.Errorf("want one of %s", strings.Join(values, ", "))
	}
}

func streamOptions(raw json.RawMessage) (json.RawMessage, error) {
	var v struct {
		IncludeUsage       bool `json:"include_usage"`
		IncludeObfuscation bool `json:"include_obfuscation"` // means nothing here
	}
	if err := strict(raw, &v); err != nil {
		return nil, err
	}
	if !v.IncludeUsage {
		return nil, nil
	}
	return json.RawMessage(includeUsage), nil
}

func stop(raw json.RawMessage) (json.RawMessage, error) {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		return json.Marshal(one)
	}
	var many []string
	if err := json.Unmarshal(raw, &many); err != nil || len(many) > maxStops {
		return nil, fmt.Errorf("want a string or at most %d strings", maxStops)
	}
	return json.Marshal(many)
}

// inputs are the texts to embed: one, or a list. Token numbers are not
// accepted: they would not be what the client's bytes bound.
func inputs(raw json.RawMessage) (json.RawMessage, error) {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		if one == "" {
			return nil, fmt.Errorf("want a text that is not empty")
		}
		return json.Marshal(one)
	}
	var many []string
	if err := json.Unmarshal(raw, &many); err != nil || len(many) == 0 || len(many) > maxInputs {
		return nil, fmt.Errorf("want a string or 1 to %d strings", maxInputs)
	}
	for _, text := range many {
		if text == "" {
			return nil, fmt.Errorf("want texts that are not empty")
		}
	}
	return json.Marshal(many)
}

func logitBias(raw json.RawMessage) (json.RawMessage, error) {
	var v map[string]float64
	if err := json.Unmarshal(raw, &v); err != nil || len(v) > 1024 {
		return nil, fmt.Errorf("want an object of at most 1024 numbers")
	}
	for _, n := range v {
		if n < -100 || n > 100 {
			return nil, fmt.Errorf("want numbers from -100 to 100")
		}
	}
	return json.Marshal(v)
}

// strict decodes raw and refuses unknown keys.
func strict(raw json.RawMessage, v any) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("%s", strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

func isNull(raw json.RawMessage) bool { return string(bytes.TrimSpace(raw)) == "null" }

// clip shortens a client's text for an error message.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64]
	}
	return s
}
