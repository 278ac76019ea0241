package eventlog

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"cocoon/internal/jcs"
)

// jsonEvent is an event of a JSON log: what dstack's guest agent publishes as
// its event log.
type jsonEvent struct {
	IMR     uint32 `json:"imr"` // 0 to 3: RTMR
	Type    uint32 `json:"event_type"`
	Digest  string `json:"digest"` // SHA-384, hex; runtime events may leave it out
	Event   string `json:"event"`  // name of a runtime event, or a label
	Payload string `json:"event_payload"`
}

// ParseJSON reads a JSON log: a list of events with the SHA-384 bank, or a
// document that carries such a list, as JSON or as a string with JSON, under
// the key "event_log". The digest of a runtime event must be the one that name
// and payload give: SHA-384 over the type, little-endian in 4 bytes, ":", the
// name, ":" and the payload.
func ParseJSON(b []byte) (*Log, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("reading event log of %d bytes: %w, limit %d", len(b), ErrTooLarge, MaxSize)
	}
	list, err := jsonList(b)
	if err != nil {
		return nil, err
	}
	var events []jsonEvent
	if err := jcs.Decode(list, MaxSize, &events); err != nil {
		return nil, fmt.Errorf("reading JSON event log: %w: %w", ErrFormat, err)
	}
	if len(events) > MaxEvents {
		return nil, fmt.Errorf("reading event log: %w, more than %d events", ErrTooLarge, MaxEvents)
	}
	if len(events) == 0 {
		return nil, fmt.Errorf("reading JSON event log: %w: no events", ErrFormat)
	}
	l := &Log{Kind: KindJSON, Algorithms: []Algorithm{SHA384}}
	for i, j := range events {
		e, err := j.event()
		if err != nil {
			return nil, fmt.Errorf("reading event %d: %w", i, err)
		}
		l.Events = append(l.Events, e)
	}
	return l, nil
}

// jsonList returns the list of events in a JSON log.
func jsonList(b []byte) ([]byte, error) {
	if err := jcs.Check(b); err != nil {
		return nil, fmt.Errorf("reading JSON event log: %w: %w", ErrFormat, err)
	}
	if t := bytes.TrimLeft(b, " \t\r\n"); len(t) == 0 || t[0] != '{' {
		return b, nil
	}
	var doc struct {
		Log json.RawMessage `json:"event_log"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, fmt.Errorf("reading JSON event log: %w: %w", ErrFormat, err)
	}
	var inner string
	if json.Unmarshal(doc.Log, &inner) == nil {
		return []byte(inner), nil
	}
	return doc.Log, nil
}

func (j *jsonEvent) event() (Event, error) {
	e := Event{Register: j.IMR + 1, Type: Type(j.Type), Name: j.Event}
	if j.IMR > 3 {
		return e, fmt.Errorf("%w: register %d, want 0 to 3", ErrFormat, j.IMR)
	}
	var err error
	if e.Data, err = hex.DecodeString(j.Payload); err != nil {
		return e, fmt.Errorf("%w: payload is not hex", ErrFormat)
	}
	d, err := hex.DecodeString(j.Digest)
	if err != nil {
		return e, fmt.Errorf("%w: digest is not hex", ErrFormat)
	}
	if e.Type == RuntimeEvent {
		sum := sha512.Sum384(runtimeInput(e.Name, e.Data))
		if len(d) == 0 {
			d = sum[:]
		}
		if !bytes.Equal(d, sum[:]) {
			return e, fmt.Errorf("%w: digest of runtime event %.64q is not that of its name and payload", ErrFormat, e.Name)
		}
	}
	if len(d) != sizes[SHA384] {
		return e, fmt.Errorf("%w: digest of %d bytes, want %d", ErrFormat, len(d), sizes[SHA384])
	}
	e.Digests = []Digest{{SHA384, d}}
	return e, nil
}

// runtimeInput is what the digest of a runtime event is taken over.
func runtimeInput(name string, payload []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(RuntimeEvent))
	b = append(append(b, ':'), name...)
	return append(append(b, ':'), payload...)
}

func looksLikeJSON(b []byte) bool {
	t := bytes.TrimLeft(b, " \t\r\n")
	return len(t) > 0 && (t[0] == '{' || t[0] == '[')
}
