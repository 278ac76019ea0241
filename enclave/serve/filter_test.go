package serve

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const hello = `"model":"m","messages":[{"role":"user","content":"hi"}]`

func TestFilterKeepsWhatTheListKnows(t *testing.T) {
	for _, c := range []struct {
		name, endpoint, in, want string
	}{
		{"a plain chat gets a bound", PathChat, `{` + hello + `}`, `{"max_tokens":4096,` + hello + `}`},
		{"null is the same as absent", PathChat, `{` + hello + `,"stop":null,"tools":null,"stream":null,"max_tokens":5}`, `{"max_tokens":5,` + hello + `}`},
		{"fields that mean nothing here are dropped", PathChat, `{` + hello + `,"user":"u","metadata":{"a":"b"},"store":true,"max_tokens":5}`, `{"max_tokens":5,` + hello + `}`},
		{"usage is always asked of a stream", PathChat, `{` + hello + `,"stream":true,"max_tokens":5}`, `{"max_tokens":5,"stream":true,"stream_options":{"include_usage":true},` + hello + `}`},
		{"stream options of an answer in one piece are dropped", PathChat, `{` + hello + `,"stream_options":{"include_usage":true},"max_tokens":5}`, `{"max_tokens":5,` + hello + `}`},
		{"text parts", PathChat, `{"model":"m","max_tokens":1,"messages":[{"role":"user","content":[{"type":"text","text":"a"}]}]}`, `{"model":"m","max_tokens":1,"messages":[{"role":"user","content":[{"type":"text","text":"a"}]}]}`},
		{"tools", PathChat, `{` + hello + `,"max_tokens":1,"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}],"tool_choice":"auto"}`,
			`{` + hello + `,"max_tokens":1,"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}],"tool_choice":"auto"}`},
		{"a tool's answer", PathChat, `{"model":"m","max_tokens":1,"messages":[{"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","content":"x","tool_call_id":"1"}]}`,
			`{"model":"m","max_tokens":1,"messages":[{"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","content":"x","tool_call_id":"1"}]}`},
		{"sampling", PathChat, `{` + hello + `,"max_completion_tokens":7,"temperature":0.5,"top_p":1,"seed":-3,"stop":["a","b"],"logit_bias":{"5":-100},"n":1}`,
			`{` + hello + `,"max_completion_tokens":7,"temperature":0.5,"top_p":1,"seed":-3,"stop":["a","b"],"logit_bias":{"5":-100},"n":1}`},
		{"a JSON schema", PathChat, `{` + hello + `,"max_tokens":1,"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"object"}}}}`,
			`{` + hello + `,"max_tokens":1,"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"object"}}}}`},
		{"a completion", PathCompletions, `{"model":"m","prompt":"x","max_tokens":9,"echo":true}`, `{"model":"m","prompt":"x","max_tokens":9,"echo":true}`},
		{"a text to embed", PathEmbeddings, `{"model":"m","input":"x","encoding_format":"base64","user":"u"}`, `{"model":"m","input":"x","encoding_format":"base64"}`},
		{"texts to embed", PathEmbeddings, `{"model":"m","input":["x","y"],"dimensions":64}`, `{"model":"m","input":["x","y"],"dimensions":64}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, apiErr := filter(c.endpoint, []string{"m"}, []byte(c.in))
			if apiErr != nil {
				t.Fatal(apiErr)
			}
			var got, want any
			if err := json.Unmarshal(f.body, &got); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal([]byte(c.want), &want); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFilterRefuses(t *testing.T) {
	for _, c := range []struct {
		name, endpoint, in, code, param string
	}{
		{"no JSON", PathChat, `{`, codeMalformed, ""},
		{"no object", PathChat, `[]`, codeMalformed, ""},
		{"null", PathChat, `null`, codeMalformed, ""},
		{"two documents", PathChat, `{` + hello + `}{}`, codeMalformed, ""},
		{"a field twice", PathChat, `{` + hello + `,"model":"m"}`, codeMalformed, ""},
		{"a field twice in another case", PathChat, `{` + hello + `,"Model":"m"}`, codeMalformed, ""},
		{"a field in another case", PathChat, `{"MODEL":"m","messages":[{"role":"user","content":"hi"}]}`, codeField, "MODEL"},
		{"deep nesting", PathChat, `{` + hello + `,"tools":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, codeMalformed, ""},
		{"a field of the engine", PathChat, `{` + hello + `,"cache_prompt":true}`, codeField, "cache_prompt"},
		{"a slot of the engine", PathChat, `{` + hello + `,"id_slot":1}`, codeField, "id_slot"},
		{"a grammar of the engine", PathChat, `{` + hello + `,"grammar":"x"}`, codeField, "grammar"},
		{"a prompt in a chat", PathChat, `{` + hello + `,"prompt":"x"}`, codeField, "prompt"},
		{"another model", PathChat, `{"model":"x","messages":[{"role":"user","content":"hi"}]}`, codeModel, "model"},
		{"no model", PathChat, `{"messages":[{"role":"user","content":"hi"}]}`, codeModel, "model"},
		{"no messages", PathChat, `{"model":"m"}`, codeValue, "messages"},
		{"an empty chat", PathChat, `{"model":"m","messages":[]}`, codeValue, "messages"},
		{"an unknown role", PathChat, `{"model":"m","messages":[{"role":"root","content":"hi"}]}`, codeValue, "messages"},
		{"an image by address", PathChat, `{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"file:///etc/passwd"}}]}]}`, codeValue, "messages"},
		{"a message field of the engine", PathChat, `{"model":"m","messages":[{"role":"user","content":"hi","cache":1}]}`, codeValue, "messages"},
		{"a message without content", PathChat, `{"model":"m","messages":[{"role":"user"}]}`, codeValue, "messages"},
		{"more than one answer", PathChat, `{` + hello + `,"n":2}`, codeValue, "n"},
		{"a negative bound", PathChat, `{` + hello + `,"max_tokens":-1}`, codeValue, "max_tokens"},
		{"an endless bound", PathChat, `{` + hello + `,"max_tokens":1048577}`, codeValue, "max_tokens"},
		{"a fraction of a token", PathChat, `{` + hello + `,"max_tokens":1.5}`, codeValue, "max_tokens"},
		{"heat", PathChat, `{` + hello + `,"temperature":2.1}`, codeValue, "temperature"},
		{"a stream that is a string", PathChat, `{` + hello + `,"stream":"true"}`, codeValue, "stream"},
		{"unknown stream options", PathChat, `{` + hello + `,"stream":true,"stream_options":{"x":1}}`, codeValue, "stream_options"},
		{"a tool that is no function", PathChat, `{` + hello + `,"tools":[{"type":"web"}]}`, codeValue, "tools"},
		{"an unknown tool choice", PathChat, `{` + hello + `,"tool_choice":{"type":"mcp"}}`, codeValue, "tool_choice"},
		{"an unknown format", PathChat, `{` + hello + `,"response_format":{"type":"xml"}}`, codeValue, "response_format"},
		{"a format without its schema", PathChat, `{` + hello + `,"response_format":{"type":"json_schema"}}`, codeValue, "response_format"},
		{"too many stops", PathChat, `{` + hello + `,"stop":[` + strings.Repeat(`"a",`, 16) + `"a"]}`, codeValue, "stop"},
		{"a strong bias", PathChat, `{` + hello + `,"logit_bias":{"1":101}}`, codeValue, "logit_bias"},
		{"no prompt", PathCompletions, `{"model":"m"}`, codeValue, "prompt"},
		{"prompts in a batch", PathCompletions, `{"model":"m","prompt":["a","b"]}`, codeValue, "prompt"},
		{"nothing to embed", PathEmbeddings, `{"model":"m"}`, codeValue, "input"},
		{"no text to embed", PathEmbeddings, `{"model":"m","input":[]}`, codeValue, "input"},
		{"an empty text to embed", PathEmbeddings, `{"model":"m","input":["a",""]}`, codeValue, "input"},
		{"token numbers to embed", PathEmbeddings, `{"model":"m","input":[1,2]}`, codeValue, "input"},
		{"a stream of embeddings", PathEmbeddings, `{"model":"m","input":"x","stream":true}`, codeField, "stream"},
		{"messages in a completion", PathCompletions, `{"model":"m","prompt":"x","messages":[]}`, codeField, "messages"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, apiErr := filter(c.endpoint, []string{"m"}, []byte(c.in))
			if apiErr == nil || apiErr.code != c.code || apiErr.param != c.param {
				t.Errorf("got %+v, want code %s param %q", apiErr, c.code, c.param)
			}
		})
	}
	t.Run("a body over the limit", func(t *testing.T) {
		if _, apiErr := filter(PathChat, []string{"m"}, make([]byte, MaxBody+1)); apiErr == nil || apiErr.code != codeMalformed {
			t.Errorf("got %+v", apiErr)
		}
	})
}

func TestTheBoundCoversPromptAndAnswer(t *testing.T) {
	body := `{` + hello + `,"max_tokens":3,"max_completion_tokens":9}`
	f, apiErr := filter(PathChat, []string{"m"}, []byte(body))
	if apiErr != nil {
		t.Fatal(apiErr)
	}
	want := Usage{Prompt: uint64(len(body)) + promptOverhead + maxPerMessage, Completion: 9}
	if f.most != want {
		t.Errorf("bound is %+v, want %+v", f.most, want)
	}
}

// FuzzFilter: whatever passes is a JSON object of listed fields with the
// worker's model, a bound, and usage asked of every stream.
func FuzzFilter(f *testing.F) {
	f.Add([]byte(`{` + hello + `}`))
	f.Add([]byte(`{` + hello + `,"stream":true,"stream_options":{"include_usage":true}}`))
	f.Add([]byte(`{"model":"m","prompt":"x","best_of":1}`))
	f.Add([]byte(`{"model":"m","messages":[{"role":"assistant","tool_calls":[{"type":"function"}]}],"logit_bias":{}}`))
	f.Add([]byte(`{"model":"m","input":["x"],"dimensions":3}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, endpoint := range []string{PathChat, PathCompletions, PathEmbeddings} {
			got, apiErr := filter(endpoint, []string{"m"}, body)
			if apiErr != nil {
				if apiErr.status < 400 || apiErr.status > 499 || apiErr.code == "" {
					t.Fatalf("refusal without status or code: %+v", apiErr)
				}
				continue
			}
			var fields map[string]json.RawMessage
			if err := json.Unmarshal(got.body, &fields); err != nil {
				t.Fatalf("passed a body that is no JSON object: %v", err)
			}
			rules := rulesFor(endpoint)
			for name := range fields {
				if rules[name] == nil {
					t.Fatalf("field %q passed", name)
				}
			}
			if string(fields["model"]) != `"m"` {
				t.Fatalf("model %s passed", fields["model"])
			}
			if got.stream != (string(fields["stream_options"]) == includeUsage) {
				t.Fatalf("stream %v with options %s", got.stream, fields["stream_options"])
			}
			if endpoint == PathEmbeddings {
				if got.most.Prompt < uint64(len(got.body)) {
					t.Fatalf("bound %d for %d bytes", got.most.Prompt, len(got.body))
				}
				continue
			}
			if fields["max_tokens"] == nil && fields["max_completion_tokens"] == nil || got.most.Completion == 0 {
				t.Fatal("an answer without a bound")
			}
		}
	})
}
