package serve

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Usage is what an engine counted, in tokens. It is what is billed.
type Usage struct {
	Prompt     uint64 // all prompt tokens
	Cached     uint64 // of these, found in a cache
	Completion uint64 // all generated tokens
	Reasoning  uint64 // of these, hidden reasoning
}

// usageJSON is OpenAI's usage object.
type usageJSON struct {
	PromptTokens     uint64 `json:"prompt_tokens"`
	CompletionTokens uint64 `json:"completion_tokens"`
	ReasoningTokens  uint64 `json:"reasoning_tokens"`
	PromptDetails    struct {
		CachedTokens uint64 `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
	CompletionDetails struct {
		ReasoningTokens uint64 `json:"reasoning_tokens"`
	} `json:"completion_tokens_details"`
}

// maxTokens bounds each count: more is an engine that does not tell the truth.
const maxTokens = 1 << 32

var errUsage = errors.New("the engine's usage is impossible")

// usage converts and checks the engine's word.
func (u *usageJSON) usage() (Usage, error) {
	v := Usage{
		Prompt: u.PromptTokens, Cached: u.PromptDetails.CachedTokens,
		Completion: u.CompletionTokens, Reasoning: max(u.ReasoningTokens, u.CompletionDetails.ReasoningTokens),
	}
	if v.Prompt > maxTokens || v.Completion > maxTokens || v.Cached > v.Prompt || v.Reasoning > v.Completion {
		return Usage{}, errUsage
	}
	return v, nil
}

// maxEvent bounds one server-sent event, in bytes.
const maxEvent = 1 << 20

var errEvent = fmt.Errorf("the engine sent an event over %d bytes", maxEvent)

// meter passes a stream of server-sent events on, event by event, and counts.
type meter struct {
	keepUsage bool  // the client asked for the usage event
	usage     Usage // the largest seen
	hasUsage  bool
	done      bool   // the [DONE] event was seen
	said      bool   // the client was told that nothing is billed
	delivered uint64 // events with content that were passed on
	last      []byte // data of the latest plain chunk
}

// readers are for streams: each has a buffer that is worth keeping.
var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 16<<10) }}

// maxBatch bounds what is sent at once, in bytes, an event more or less.
const maxBatch = 64 << 10

// copy reads events from r and hands those that the client gets to send, bytes
// unchanged: one at a time, or several if they have come already, since an
// engine may be faster than the client's connection. It goes on reading after
// send fails, as far as r goes on: the usage may be in what r holds already. It
// returns the error of r, or of the events' form; send's error is kept apart in
// sendErr.
func (m *meter) copy(r io.Reader, send func(events []byte) error) (err, sendErr error) {
	br := readers.Get().(*bufio.Reader)
	br.Reset(r)
	defer func() {
		br.Reset(nil) // nothing of one client's stream is kept, nor its connection
		readers.Put(br)
	}()
	var event, batch []byte
	content := uint64(0) // events with content in the batch
	emit := func() {
		if len(batch) > 0 && sendErr == nil {
			if sendErr = send(batch); sendErr == nil {
				m.delivered += content
			}
		}
		batch, content = batch[:0], 0
	}
	for {
		line, rerr := br.ReadSlice('\n')
		if len(event)+len(line) > maxEvent {
			emit()
			return errEvent, sendErr
		}
		event = append(event, line...)
		if errors.Is(rerr, bufio.ErrBufferFull) {
			continue
		}
		end := rerr != nil
		if blank(line) || end {
			if len(bytes.TrimSpace(event)) > 0 {
				pass, hasContent, err := m.see(event)
				if err != nil {
					emit()
					return err, sendErr
				}
				if m.done && !m.hasUsage && !m.said {
					m.said = true
					batch = append(batch, notBilled...)
				}
				if pass {
					batch = append(batch, event...)
				}
				if pass && hasContent {
					content++
				}
			}
			event = event[:0]
			if end || len(batch) >= maxBatch || !buffered(br) {
				emit()
			}
		}
		if end {
			if errors.Is(rerr, io.EOF) {
				rerr = nil
			}
			return rerr, sendErr
		}
	}
}

// buffered reports whether the reader holds the end of another event, which
// can be had without waiting for the engine.
func buffered(br *bufio.Reader) bool {
	b, err := br.Peek(br.Buffered())
	return err == nil && (bytes.Contains(b, []byte("\n\n")) || bytes.Contains(b, []byte("\n\r\n")))
}

func blank(line []byte) bool { return len(line) > 0 && len(bytes.TrimRight(line, "\r\n")) == 0 }

// see reads one event and says whether the client gets it, and whether it
// carries content.
func (m *meter) see(event []byte) (pass, content bool, err error) {
	data := eventData(event)
	if len(data) == 0 {
		return true, false, nil // a comment: keeps the connection alive
	}
	if string(data) == "[DONE]" {
		m.done = true
		return true, false, nil
	}
	if m.plainChunk(data) {
		return true, true, nil
	}
	var chunk struct {
		Choices []json.RawMessage `json:"choices"`
		Usage   *usageJSON        `json:"usage"`
	}
	if err := json.Unmarshal(data, &chunk); err != nil {
		return false, false, errors.New("the engine sent an event that is not JSON")
	}
	if chunk.Usage != nil {
		u, err := chunk.Usage.usage()
		if err != nil {
			return false, false, err
		}
		m.add(u)
		if len(chunk.Choices) == 0 {
			return m.keepUsage, false, nil
		}
	}
	return true, len(chunk.Choices) > 0, nil
}

// plainChunk reports whether an event is JSON with choices and certainly
// without usage, as nearly all are: that is seen without decoding it. Inside a
// string these words could not stand, since its quotes would be escaped.
func (m *meter) plainChunk(data []byte) bool {
	if bytes.Contains(data, []byte(`"usage"`)) || bytes.Contains(data, []byte(`\u`)) || !bytes.Contains(data, []byte(`"choices":[{`)) {
		return false
	}
	if !sameButText(m.last, data) && !json.Valid(data) {
		return false
	}
	m.last = append(m.last[:0], data...)
	return true
}

// sameButText reports whether data is certainly JSON because it is a text that
// is JSON, good, but for plain characters in one of its strings: the events of a
// stream differ by a word. False means that it does not know.
func sameButText(good, data []byte) bool {
	if len(good) == 0 || bytes.Equal(good, data) {
		return len(good) > 0
	}
	shorter := min(len(good), len(data))
	from := 0
	for from+8 <= shorter && binary.NativeEndian.Uint64(good[from:]) == binary.NativeEndian.Uint64(data[from:]) {
		from += 8
	}
	for from < shorter && good[from] == data[from] {
		from++
	}
	after := 0 // bytes that both end in
	for after < shorter-from && good[len(good)-1-after] == data[len(data)-1-after] {
		after++
	}
	// Within a string, and not behind a backslash: an odd number of quotes
	// opened it, and none of them was escaped.
	if bytes.Count(good[:from], []byte{'"'})%2 == 0 || bytes.IndexByte(good[:from], '\\') >= 0 {
		return false
	}
	return plainText(good[from:len(good)-after]) && plainText(data[from:len(data)-after])
}

// plainText reports whether bytes can stand in a JSON string as they are.
func plainText(b []byte) bool {
	for _, c := range b {
		if c < ' ' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

func (m *meter) add(u Usage) {
	m.hasUsage = true
	m.usage = Usage{
		Prompt: max(m.usage.Prompt, u.Prompt), Cached: max(m.usage.Cached, u.Cached),
		Completion: max(m.usage.Completion, u.Completion), Reasoning: max(m.usage.Reasoning, u.Reasoning),
	}
}

// billed returns what is billed: what the engine counted. A stream that was
// cut short before it said bills one token for each event with content that
// was delivered, which is never more than was made, and nothing for the
// prompt. One that came to its end without usage is not billed.
func (m *meter) billed() Usage {
	switch {
	case m.hasUsage:
		return m.usage
	case m.done:
		return Usage{}
	}
	return Usage{Completion: m.delivered}
}

// notBilled is the event, a comment to every reader of events, that says so.
const notBilled = ": not billed: the engine gave no usage\n\n"

// eventData returns an event's data: the values of its data fields, joined by
// newlines (WHATWG HTML, section 9.2.6).
func eventData(event []byte) []byte {
	// Nearly all events are one such line.
	if rest, ok := bytes.CutPrefix(event, []byte("data: ")); ok {
		if i := bytes.IndexByte(rest, '\n'); i >= 0 && blank(rest[i+1:]) && (i == 0 || rest[i-1] != '\r') {
			return rest[:i]
		}
	}
	var out []byte
	n := 0
	for _, line := range bytes.Split(event, []byte("\n")) {
		line = bytes.TrimSuffix(line, []byte("\r"))
		v, ok := bytes.CutPrefix(line, []byte("data:"))
		if !ok {
			continue
		}
		if n > 0 {
			out = append(out, '\n')
		}
		out = append(out, bytes.TrimPrefix(v, []byte(" "))...)
		n++
	}
	return out
}
