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
		{"a plain chat gets a bound", pathChat, `{` + hello + `}`, `{"max_tokens":4096,` + hello + `}`},
		{"null is the same as absent", pathChat, `{` + hello + `,"stop":null,"tools":null,"stream":null,"max_tokens":5}`, `{"max_tokens":5,` + hello + `}`},
		{"fields that mean nothing here are dropped", pathChat, `{` + hello + `,"user":"u","metadata":{"a":"b"},"store":true,"max_tokens":5}`, `{"max_tokens":5,` + hello + `}`},
		{"usage is always asked of a stream", pathChat, `{` + hello + `,"stream":true,"max_tokens":5}`, `{"max_tokens":5,"stream":true,"stream_options":{"include_usage":true},` + hello + `}`},
		{"stream options of an answer in one piece are dropped", pathChat, `{` + hello + `,"stream_options":{"include_usage":true},"max_tokens":5}`, `{"max_tokens":5,` + hello + `}`},
		{"text parts", pathChat, `{"model":"m","max_tokens":1,"messages":[{"role":"user","content":[{"type":"text","text":"a"}]}]}`, `{"model":"m","max_tokens":1,"messages":[{"role":"user","content":[{"type":"text","text":"a"}]}]}`},
		{"tools", pathChat, `{` + hello + `,"max_tokens":1,"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}],"tool_choice":"auto"}`,
			`{` + hello + `,"max_tokens":1,"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}],"tool_choice":"auto"}`},
		{"a tool's answer", pathChat, `{"model":"m","max_tokens":1,"messages":[{"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","content":"x","tool_call_id":"1"}]}`,
			`{"model":"m","max_tokens":1,"messages":[{"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","content":"x","tool_call_id":"1"}]}`},
		{"sampling", pathChat, `{` + hello + `,"max_completion_tokens":7,"temperature":0.5,"top_p":1,"seed":-3,"stop":["a","b"],"logit_bias":{"5":-100},"n":1}`,
			`{` + hello + `,"max_completion_tokens":7,"temperature":0.5,"top_p":1,"seed":-3,"stop":["a","b"],"logit_bias":{"5":-100},"n":1}`},
		{"a JSON schema", pathChat, `{` + hello + `,"max_tokens":1,"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"object"}}}}`,
			`{` + hello + `,"max_tokens":1,"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"object"}}}}`},
		{"a completion", pathCompletions, `{"model":"m","prompt":"x","max_tokens":9,"echo":true}`, `{"model":"m","prompt":"x","max_tokens":9,"echo":true}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, apiErr := filter(c.endpoint, "m", []byte(c.in))
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
		{"no JSON", pathChat, `{`, codeMalformed, ""},
		{"no object", pathChat, `[]`, codeMalformed, ""},
		{"null", pathChat, `null`, codeMalformed, ""},
		{"two documents", pathChat, `{` + hello + `}{}`, codeMalformed, ""},
		{"a field twice", pathChat, `{` + hello + `,"model":"m"}`, codeMalformed, ""},
		{"a field twice in another case", pathChat, `{` + hello + `,"Model":"m"}`, codeMalformed, ""},
		{"a field in another case", pathChat, `{"MODEL":"m","messages":[{"role":"user","content":"hi"}]}`, codeField, "MODEL"},
		{"deep nesting", pathChat, `{` + hello + `,"tools":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, codeMalformed, ""},
		{"a field of the engine", pathChat, `{` + hello + `,"cache_prompt":true}`, codeField, "cache_prompt"},
		{"a slot of the engine", pathChat, `{` + hello + `,"id_slot":1}`, codeField, "id_slot"},
		{"a grammar of the engine", pathChat, `{` + hello + `,"grammar":"x"}`, codeField, "grammar"},
		{"a prompt in a chat", pathChat, `{` + hello + `,"prompt":"x"}`, codeField, "prompt"},
		{"another model", pathChat, `{"model":"x","messages":[{"role":"user","content":"hi"}]}`, codeModel, "model"},
		{"no model", pathChat, `{"messages":[{"role":"user","content":"hi"}]}`, codeModel, "model"},
		{"no messages", pathChat, `{"model":"m"}`, codeValue, "messages"},
		{"an empty chat", pathChat, `{"model":"m","messages":[]}`, codeValue, "messages"},
		{"an unknown role", pathChat, `{"model":"m","messages":[{"role":"root","content":"hi"}]}`, codeValue, "messages"},
		{"an image by address", pathChat, `{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"file:///etc/passwd"}}]}]}`, codeValue, "messages"},
		{"a message field of the engine", pathChat, `{"model":"m","messages":[{"role":"user","content":"hi","cache":1}]}`, codeValue, "messages"},
		{"a message without content", pathChat, `{"model":"m","messages":[{"role":"user"}]}`, codeValue, "messages"},
		{"more than one answer", pathChat, `{` + hello + `,"n":2}`, codeValue, "n"},
		{"a negative bound", pathChat, `{` + hello + `,"max_tokens":-1}`, codeValue, "max_tokens"},
		{"an endless bound", pathChat, `{` + hello + `,"max_tokens":1048577}`, codeValue, "max_tokens"},
		{"a fraction of a token", pathChat, `{` + hello + `,"max_tokens":1.5}`, codeValue, "max_tokens"},
		{"heat", pathChat, `{` + hello + `,"temperature":2.1}`, codeValue, "temperature"},
		{"a stream that is a string", pathChat, `{` + hello + `,"stream":"true"}`, codeValue, "stream"},
		{"unknown stream options", pathChat, `{` + hello + `,"stream":true,"stream_options":{"x":1}}`, codeValue, "stream_options"},
		{"a tool that is no function", pathChat, `{` + hello + `,"tools":[{"type":"web"}]}`, codeValue, "tools"},
		{"an unknown tool choice", pathChat, `{` + hello + `,"tool_choice":{"type":"mcp"}}`, codeValue, "tool_choice"},
		{"an unknown format", pathChat, `{` + hello + `,"response_format":{"type":"xml"}}`, codeValue, "response_format"},
		{"a format without its schema", pathChat, `{` + hello + `,"response_format":{"type":"json_schema"}}`, codeValue, "response_format"},
		{"too many stops", pathChat, `{` + hello + `,"stop":[` + strings.Repeat(`"a",`, 16) + `"a"]}`, codeValue, "stop"},
		{"a strong bias", pathChat, `{` + hello + `,"logit_bias":{"1":101}}`, codeValue, "logit_bias"},
		{"no prompt", pathCompletions, `{"model":"m"}`, codeValue, "prompt"},
		{"prompts in a batch", pathCompletions, `{"model":"m","prompt":["a","b"]}`, codeValue, "prompt"},
		{"messages in a completion", pathCompletions, `{"model":"m","prompt":"x","messages":[]}`, codeField, "messages"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, apiErr := filter(c.endpoint, "m", []byte(c.in))
			if apiErr == nil || apiErr.code != c.code || apiErr.param != c.param {
				t.Errorf("got %+v, want code %s param %q", apiErr, c.code, c.param)
			}
		})
	}
	t.Run("a body over the limit", func(t *testing.T) {
		if _, apiErr := filter(pathChat, "m", make([]byte, MaxBody+1)); apiErr == nil || apiErr.code != codeMalformed {
			t.Errorf("got %+v", apiErr)
		}
	})
}

func TestTheBoundCoversPromptAndAnswer(t *testing.T) {
	body := `{` + hello + `,"max_tokens":3,"max_completion_tokens":9}`
	f, apiErr := filter(pathChat, "m", []byte(body))
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
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, endpoint := range []string{pathChat, pathCompletions} {
			got, apiErr := filter(endpoint, "m", body)
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
			if fields["max_tokens"] == nil && fields["max_completion_tokens"] == nil || got.most.Completion == 0 {
				t.Fatal("an answer without a bound")
			}
		}
	})
}
