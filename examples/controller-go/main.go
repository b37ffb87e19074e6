// A fleet controller in Go: it follows the notifications, resolves each artifact from a file store,
// and prints a line for each.
//
//	go run . [-stream control:notifications] [-cursor FILE] [-trust KEY] redis://host:6379 /var/lib/fleet
//
// docs/wire.md explains each step. It is at least once: the cursor is stored after the line.
package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"time"
)

// trust has the key that every notification must be signed with; without one none need be.
var trust = Keys{}

func main() {
	stream := flag.String("stream", "control:notifications", "notification stream")
	path := flag.String("cursor", "cursor", "file that keeps the cursor")
	trusted := flag.String("trust", "", "base64 of a public key (32 bytes): every notification must be signed with it")
	flag.Parse()
	if *trusted != "" {
		key, err := base64.StdEncoding.DecodeString(*trusted)
		if err != nil || len(key) != ed25519.PublicKeySize {
			log.Fatal("-trust: no public key")
		}
		trust.Add(key)
	}
	if flag.NArg() != 2 {
		log.Fatal("usage: controller [-stream NAME] [-cursor FILE] REDIS_URL STORE_DIRECTORY")
	}
	for {
		err := follow(flag.Arg(0), *stream, *path, flag.Arg(1))
		if errors.Is(err, ErrGap) {
			log.Fatal(err, ": begin again from a state, and remove ", *path)
		}
		if errors.Is(err, ErrUntrusted) {
			log.Fatal(err, ": find out who wrote it")
		}
		log.Print(err, ": trying again")
		time.Sleep(time.Second)
	}
}

func follow(url, stream, path, root string) error {
	redis, err := Dial(url)
	if err != nil {
		return err
	}
	defer redis.conn.Close()
	cursor, err := load(path)
	if err != nil {
		return err
	}
	for {
		batch, err := next(redis, stream, cursor)
		if err != nil {
			return err
		}
		for _, n := range batch.notifications {
			if err := apply(root, n); err != nil {
				return err // and again from this one: it is never skipped
			}
			cursor = Cursor{n.ControlVersion, batch.incarnation}
			if err := store(path, cursor); err != nil {
				return err
			}
		}
	}
}

// batch is what came, and of which incarnation of the stream; "" where another began meanwhile.
type batch struct {
	notifications []Notification
	incarnation   string
}

// next waits for what comes after the cursor. It reads first and looks for a gap then, so that
// nothing can be trimmed, nor the stream made anew, in between.
func next(redis *Redis, stream string, cursor Cursor) (batch batch, err error) {
	before, err := incarnations(redis, stream)
	if err != nil {
		return batch, err
	}
	answer, err := redis.Do("XREAD", "COUNT", "500", "BLOCK", "5000", "STREAMS", stream, EntryID(cursor.Version))
	if err != nil {
		return batch, err
	}
	about, err := look(redis, stream)
	if err != nil {
		return batch, err
	}
	there, err := redis.Do("XRANGE", stream, EntryID(cursor.Version), EntryID(cursor.Version))
	if err != nil {
		return batch, err
	}
	after, err := incarnations(redis, stream)
	if err != nil {
		return batch, err
	}
	list := Incarnations(after)
	found, _ := there.([]any)
	if kind := about.Gap(cursor, list, len(found) > 0); kind != "" {
		return batch, fmt.Errorf("%w: %s, cursor %s, stream %+v", ErrGap, kind, cursor, about)
	}
	if len(list) > 0 && before == after {
		batch.incarnation = list[len(list)-1].ID
	}
	for _, one := range entries(answer) {
		if len(trust) > 0 {
			if err := trust.Verify(stream, one.id, one.fields); err != nil {
				return batch, err
			}
		}
		n, err := Decode(one.id, one.fields)
		if err != nil {
			return batch, err
		}
		batch.notifications = append(batch.notifications, n)
	}
	return batch, nil
}

func incarnations(redis *Redis, stream string) (string, error) {
	list, err := redis.Do("HGET", tagged(stream)+":incarnations", "list")
	text, _ := list.(string)
	return text, err
}

// look asks for the stream's ends, and how far it was trimmed.
func look(redis *Redis, stream string) (s Stream, err error) {
	answer, err := redis.Do("XINFO", "STREAM", stream)
	if refused := Refused(""); errors.As(err, &refused) && strings.Contains(err.Error(), "no such key") {
		return s, nil // nothing was ever published, or all was lost: then the end is 0
	} else if err != nil {
		return s, err
	}
	info := pairs(answer.([]any))
	s.Length, _ = info["length"].(int64)
	added, known := info["entries-added"].(int64)
	if s.EntriesAdded = added; !known {
		s.EntriesAdded = -1
	}
	if s.End, err = ControlVersion(info["last-generated-id"].(string)); err != nil {
		return s, err
	}
	if first, ok := info["first-entry"].([]any); ok {
		s.First, err = ControlVersion(first[0].(string))
	}
	if err != nil {
		return s, err
	}
	gone, err := redis.Do("HGET", tagged(stream)+":trimmed", "gone "+stream)
	if err != nil {
		return s, err
	}
	noted, err := redis.Do("HGET", tagged(stream)+":trimmed", stream)
	if id, ok := noted.(string); ok && id != "" && err == nil {
		s.Trimmed, err = ControlVersion(id)
	}
	s.Gone = goneWith(noted, gone)
	return s, err
}

// goneWith says how many were gone with the ID that was noted; -1 where that is not told of it.
func goneWith(noted, gone any) int64 {
	id, _ := noted.(string)
	told, _ := gone.(string)
	of, count, found := strings.Cut(told, " ")
	number, err := strconv.ParseInt(count, 10, 64)
	if !found || err != nil || number < 0 || of != id {
		return -1
	}
	return number
}

// tagged is what the sidecar's own keys begin with: {N}, or N where that has a hash tag.
func tagged(stream string) string {
	if strings.ContainsRune(stream, '{') {
		return stream
	}
	return "{" + stream + "}"
}

type entry struct {
	id     string
	fields map[string]string
}

func entries(answer any) (found []entry) {
	streams, _ := answer.([]any)
	for _, stream := range streams {
		for _, one := range stream.([]any)[1].([]any) {
			pair := one.([]any)
			fields := map[string]string{}
			for name, value := range pairs(pair[1].([]any)) {
				fields[name] = value.(string)
			}
			found = append(found, entry{pair[0].(string), fields})
		}
	}
	return found
}

func pairs(flat []any) map[string]any {
	found := map[string]any{}
	for i := 0; i+1 < len(flat); i += 2 {
		found[flat[i].(string)] = flat[i+1]
	}
	return found
}

// apply is where a controller does its work.
func apply(root string, n Notification) error {
	data, manifest := []byte(nil), []byte(nil)
	if n.ArtifactRef != "" {
		var err error
		if data, manifest, err = Resolve(root, n); err != nil {
			return err
		}
	}
	_, err := fmt.Printf("%d %s %s %s %d %d %s\n", n.ControlVersion, n.EventID, n.Type, n.ArtifactRef,
		len(data), len(manifest), checksum(data))
	return err
}

func load(path string) (Cursor, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return Cursor{}, nil
	} else if err != nil {
		return Cursor{}, err
	}
	return ParseCursor(string(text))
}

func store(path string, cursor Cursor) error {
	file, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := fmt.Fprintln(file, cursor); err != nil {
		return err
	}
	if err := file.Sync(); err != nil { // else a power cut may leave the new name, and nothing in it
		return err
	}
	return os.Rename(path+".new", path)
}
