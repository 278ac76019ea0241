package serve

import (
	"net/http"
	"strings"
	"testing"
)

// events writes each document as an event.
func events(docs ...string) string {
	var b strings.Builder
	for _, d := range docs {
		b.WriteString("data: " + d + "\n\n")
	}
	return b.String()
}

// TestEachEnginesUsageIsBilledAsItCounts plays what each engine answers, in the
// forms of their documentation and sources: llama.cpp's server-task.cpp
// (usage_json_oaicompat), vllm/entrypoints/openai/engine/protocol.py (UsageInfo),
// sglang/srt/entrypoints/openai/usage_processor.py. Of llama-server, which was run,
// the end of a stream was seen like this; the others were never recorded. In all of
// them the prompt's count has the cached tokens in it, and the completion's the
// reasoning. They differ in where usage stands, in what is null or left out, and
// in what is beside it.
func TestEachEnginesUsageIsBilledAsItCounts(t *testing.T) {
	const text = `{"model":"m","prompt":"x","stream":true,"max_tokens":20}`
	const textWhole = `{"model":"m","prompt":"x","max_tokens":20}`
	const embed = `{"model":"m","input":"x"}`
	const asked = `{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true,"stream_options":{"include_usage":true}}`
	for _, c := range []struct {
		name, path, request, answer string
		want                        Usage
		client                      string // what it gets, where not all of it
	}{
		// llama-server.
		{"llama-server: an answer in one piece", PathChat, chat,
			`{"choices":[{"finish_reason":"stop","index":0,"message":{"role":"assistant","content":"Tokyo"}}],"created":1,"model":"m","system_fingerprint":"b11669","object":"chat.completion","usage":{"completion_tokens":12,"prompt_tokens":30,"total_tokens":42,"prompt_tokens_details":{"cached_tokens":0}},"id":"x","timings":{"cache_n":0,"prompt_n":30,"predicted_n":12}}`,
			Usage{Prompt: 30, Completion: 12}, ""},
		{"llama-server: a stream whose usage comes after the last choice", PathChat, stream,
			events(`{"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],"object":"chat.completion.chunk"}`,
				`{"choices":[{"finish_reason":null,"index":0,"delta":{"content":"Tokyo"}}],"object":"chat.completion.chunk"}`,
				`{"choices":[{"finish_reason":"stop","index":0,"delta":{}}],"object":"chat.completion.chunk"}`,
				`{"choices":[],"object":"chat.completion.chunk","usage":{"completion_tokens":12,"prompt_tokens":30,"total_tokens":42,"prompt_tokens_details":{"cached_tokens":4}},"timings":{"cache_n":4,"prompt_n":26,"predicted_n":12}}`,
				`[DONE]`),
			Usage{Prompt: 30, Cached: 4, Completion: 12},
			events(`{"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],"object":"chat.completion.chunk"}`,
				`{"choices":[{"finish_reason":null,"index":0,"delta":{"content":"Tokyo"}}],"object":"chat.completion.chunk"}`,
				`{"choices":[{"finish_reason":"stop","index":0,"delta":{}}],"object":"chat.completion.chunk"}`, `[DONE]`)},
		{"llama-server: a completion, whose last choice has the usage beside it", PathCompletions, text,
			events(`{"choices":[{"text":"Tok","index":0,"logprobs":null,"finish_reason":null}],"object":"text_completion"}`,
				`{"choices":[{"text":"","index":0,"logprobs":null,"finish_reason":"length"}],"object":"text_completion","usage":{"completion_tokens":20,"prompt_tokens":2,"total_tokens":22,"prompt_tokens_details":{"cached_tokens":0}},"timings":{"prompt_n":2,"predicted_n":20}}`,
				`[DONE]`),
			Usage{Prompt: 2, Completion: 20}, ""},
		{"llama-server: vectors", PathEmbeddings, embed,
			`{"model":"m","object":"list","usage":{"prompt_tokens":3,"total_tokens":3},"data":[{"embedding":[0.5],"index":0,"object":"embedding"}]}`,
			Usage{Prompt: 3}, ""},

		// vLLM.
		{"vLLM: an answer in one piece, without details", PathChat, chat,
			`{"id":"chatcmpl-x","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Tokyo","reasoning_content":null,"tool_calls":[]},"logprobs":null,"finish_reason":"stop","stop_reason":null}],"usage":{"prompt_tokens":30,"total_tokens":42,"completion_tokens":12,"prompt_tokens_details":null},"prompt_logprobs":null,"kv_transfer_params":null}`,
			Usage{Prompt: 30, Completion: 12}, ""},
		{"vLLM: cached tokens, told of", PathCompletions, textWhole,
			`{"object":"text_completion","choices":[{"index":0,"text":"Tokyo","finish_reason":"length"}],"usage":{"prompt_tokens":30,"total_tokens":42,"completion_tokens":12,"prompt_tokens_details":{"cached_tokens":16}}}`,
			Usage{Prompt: 30, Cached: 16, Completion: 12}, ""},
		{"vLLM: details without a number", PathCompletions, textWhole,
			`{"choices":[{"text":"Tokyo"}],"usage":{"prompt_tokens":30,"total_tokens":42,"completion_tokens":12,"prompt_tokens_details":{"cached_tokens":null}}}`,
			Usage{Prompt: 30, Completion: 12}, ""},
		{"vLLM: a stream with null for usage until the end", PathChat, asked,
			events(`{"id":"chatcmpl-x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":null}`,
				`{"id":"chatcmpl-x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Tokyo"},"finish_reason":"stop","stop_reason":null}],"usage":null}`,
				`{"id":"chatcmpl-x","object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":30,"total_tokens":42,"completion_tokens":12}}`,
				`[DONE]`),
			Usage{Prompt: 30, Completion: 12}, ""},
		{"vLLM: usage in every chunk, which grows", PathChat, stream,
			events(`{"choices":[{"index":0,"delta":{"content":""}}],"usage":{"prompt_tokens":30,"total_tokens":30,"completion_tokens":0}}`,
				`{"choices":[{"index":0,"delta":{"content":"Tok"}}],"usage":{"prompt_tokens":30,"total_tokens":31,"completion_tokens":1}}`,
				`{"choices":[{"index":0,"delta":{"content":"yo"}}],"usage":{"prompt_tokens":30,"total_tokens":42,"completion_tokens":12}}`,
				`[DONE]`),
			Usage{Prompt: 30, Completion: 12}, ""},
		{"vLLM: a stream that fails bills nothing of what it does not count", PathChat, stream,
			events(`{"choices":[{"index":0,"delta":{"content":"Tok"}}]}`, `{"error":{"message":"EngineCore died","type":"InternalServerError","param":null,"code":500}}`, `[DONE]`),
			Usage{},
			events(`{"choices":[{"index":0,"delta":{"content":"Tok"}}]}`, `{"error":{"message":"EngineCore died","type":"InternalServerError","param":null,"code":500}}`) + notBilled + events(`[DONE]`)},
		{"vLLM: vectors", PathEmbeddings, embed,
			`{"id":"embd-x","object":"list","model":"m","data":[{"index":0,"object":"embedding","embedding":[0.5]}],"usage":{"prompt_tokens":3,"total_tokens":3,"completion_tokens":0,"prompt_tokens_details":null}}`,
			Usage{Prompt: 3}, ""},

		// SGLang.
		{"SGLang: reasoning tokens, at the top", PathChat, chat,
			`{"id":"x","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Tokyo","reasoning_content":"It is Japan.","tool_calls":null},"logprobs":null,"finish_reason":"stop","matched_stop":2}],"usage":{"prompt_tokens":30,"total_tokens":42,"completion_tokens":12,"prompt_tokens_details":null,"reasoning_tokens":7},"metadata":{"weight_version":"default"}}`,
			Usage{Prompt: 30, Completion: 12, Reasoning: 7}, ""},
		{"SGLang: cached tokens, and tokens that were guessed in vain", PathCompletions, textWhole,
			`{"choices":[{"text":"Tokyo","matched_stop":null}],"usage":{"prompt_tokens":30,"total_tokens":42,"completion_tokens":12,"prompt_tokens_details":{"cached_tokens":16},"reasoning_tokens":0,"completion_tokens_details":{"accepted_prediction_tokens":6,"rejected_prediction_tokens":90}}}`,
			Usage{Prompt: 30, Cached: 16, Completion: 12}, ""},
		{"SGLang: a stream", PathChat, stream,
			events(`{"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":"","reasoning_content":null,"tool_calls":null},"logprobs":null,"finish_reason":null,"matched_stop":null}],"usage":null}`,
				`{"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":null,"content":"Tokyo","reasoning_content":null,"tool_calls":null},"finish_reason":"stop","matched_stop":2}],"usage":null}`,
				`{"id":"x","object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":30,"total_tokens":42,"completion_tokens":12,"prompt_tokens_details":null,"reasoning_tokens":0}}`,
				`[DONE]`),
			Usage{Prompt: 30, Completion: 12},
			events(`{"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":"","reasoning_content":null,"tool_calls":null},"logprobs":null,"finish_reason":null,"matched_stop":null}],"usage":null}`,
				`{"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":null,"content":"Tokyo","reasoning_content":null,"tool_calls":null},"finish_reason":"stop","matched_stop":2}],"usage":null}`, `[DONE]`)},
		{"SGLang: vectors", PathEmbeddings, embed,
			`{"data":[{"embedding":[0.5],"index":0,"object":"embedding"}],"model":"m","object":"list","usage":{"prompt_tokens":3,"total_tokens":3,"completion_tokens":0,"prompt_tokens_details":null,"reasoning_tokens":0}}`,
			Usage{Prompt: 3}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			led := &ledger{}
			kind := "application/json"
			if strings.HasPrefix(c.answer, "data: ") {
				kind = "text/event-stream"
			}
			w := start(t, func(w *world, o *Options) {
				w.ledger, o.Endpoints = led, []string{PathChat, PathCompletions, PathEmbeddings}
				w.engine = engineFunc(func(*http.Request) (*http.Response, error) {
					return answer(200, kind, strings.NewReader(c.answer)), nil
				})
			})
			rsp, body := w.do(t, "POST", c.path, c.request, HeaderJob, "EQjob")
			want := c.client
			if want == "" {
				want = c.answer
			}
			if rsp.StatusCode != 200 || body != want {
				t.Errorf("the client got %s\n%s\nwant\n%s", rsp.Status, body, want)
			}
			if len(led.issued) != 1 || led.issued[0].Usage != c.want || led.issued[0].Cancelled {
				t.Errorf("issued %+v, want %+v", led.issued, c.want)
			}
		})
	}
}
