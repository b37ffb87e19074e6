package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// read returns the golden vectors of a file of docs/wire/vectors.
func read[T any](t *testing.T, name string) []T {
	raw, err := os.ReadFile(filepath.Join("../../docs/wire/vectors", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Version int
		Vectors []T
	}
	if err := json.Unmarshal(raw, &file); err != nil || file.Version != 1 || len(file.Vectors) == 0 {
		t.Fatal(name, err)
	}
	return file.Vectors
}

func TestEvents(t *testing.T) {
	type vector struct {
		Name, Event  string
		Reason       *string
		Notification string
	}
	for _, v := range read[vector](t, "events") {
		if v.Reason != nil {
			continue // it is a dead letter, and no controller sees it
		}
		var sent Event
		if err := json.Unmarshal([]byte(v.Event), &sent); err != nil {
			t.Error(v.Name, err)
		}
		fields := map[string]string{"event": v.Notification, "origin": "control:events/1-0"}
		got, err := Decode("1791234567890-123", fields)
		sent.ControlVersion, sent.ManifestChecksum = got.ControlVersion, got.ManifestChecksum
		if err != nil || got.Event != sent || (got.ArtifactRef != "") != (got.ManifestChecksum != "") {
			t.Error(v.Name, err, got.Event, sent)
		}
		if _, err := Decode("1-0", fields); err == nil {
			t.Error(v.Name, "has another ID")
		}
	}
}

func TestPositions(t *testing.T) {
	type vector struct {
		ControlVersion uint64 `json:"control_version"`
		ID             string
	}
	for _, v := range read[vector](t, "positions") {
		back, err := ControlVersion(v.ID)
		if err != nil || back != v.ControlVersion || EntryID(v.ControlVersion) != v.ID {
			t.Error(v, back, err)
		}
	}
}

func TestGaps(t *testing.T) {
	type vector struct {
		Name                        string
		Cursor, First, End, Trimmed uint64
		Length                      int64
		EntriesAdded                *int64 `json:"entries_added"`
		Gone, Gap                   string
	}
	for _, v := range read[vector](t, "gaps") {
		s := Stream{v.First, v.End, v.Trimmed, v.Length, -1, goneWith(EntryID(v.Trimmed), v.Gone)}
		if v.EntriesAdded != nil {
			s.EntriesAdded = *v.EntriesAdded
		}
		if got := s.Gap(Cursor{Version: v.Cursor}, nil, false); got != v.Gap {
			t.Errorf("%s: %q, not %q", v.Name, got, v.Gap)
		}
	}
}

func TestIncarnations(t *testing.T) {
	type vector struct {
		Name, Cursor, List string
		IsThere            bool `json:"is_there"`
		Lost               bool
	}
	for _, v := range read[vector](t, "incarnations") {
		cursor, err := ParseCursor(v.Cursor)
		if err != nil || cursor.String() != v.Cursor {
			t.Error(v.Name, err, cursor)
		}
		if got := cursor.Lost(Incarnations(v.List), v.IsThere); got != v.Lost {
			t.Errorf("%s: %t", v.Name, got)
		}
		kind := map[bool]string{true: "made_anew"}[v.Lost]
		s := Stream{First: 1, End: 9999, Length: 1, EntriesAdded: 1, Gone: -1}
		if got := s.Gap(cursor, Incarnations(v.List), v.IsThere); got != kind {
			t.Errorf("%s: %q, not %q", v.Name, got, kind)
		}
	}
}

func TestRefs(t *testing.T) {
	type vector struct{ Ref, Path string }
	for _, v := range read[vector](t, "refs") {
		if got := Place(v.Ref); got != v.Path {
			t.Errorf("%q: %q, not %q", v.Ref, got, v.Path)
		}
	}
}

func TestRecords(t *testing.T) {
	type vector struct {
		Name           string
		Record         string `json:"record_base64"`
		Error          string
		Envelope       Envelope
		Manifest, Data string
	}
	for _, v := range read[vector](t, "records") {
		raw, _ := base64.StdEncoding.DecodeString(v.Record)
		envelope, manifest, data, err := Parse(raw)
		if v.Error != "" {
			if err == nil || err.Error() != v.Error {
				t.Error(v.Name, err)
			}
		} else if err != nil || envelope != v.Envelope || string(manifest) != v.Manifest || string(data) != v.Data {
			t.Error(v.Name, err, envelope)
		}
	}
}

func TestSignatures(t *testing.T) {
	type vector struct {
		Name, Stream, ID string
		Fields           map[string]string
		Key              string `json:"key_base64"`
		Error            *string
	}
	for _, v := range read[vector](t, "signatures") {
		key, _ := base64.StdEncoding.DecodeString(v.Key)
		keys := Keys{}
		keys.Add(ed25519.PublicKey(key))
		if err := keys.Verify(v.Stream, v.ID, v.Fields); (err != nil) != (v.Error != nil) {
			t.Error(v.Name, err)
		}
	}
}
