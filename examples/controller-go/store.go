package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

var (
	errCorrupt = errors.New("corrupt")
	errNewer   = errors.New("newer") // a format of a later release, and no damage
	errAbsent  = errors.New("absent")
	header     = regexp.MustCompile(`^(artifact-record 1\nref ([^\n]+)\n` +
		`data (sha256:[0-9a-f]{64}) (\d{1,19})\nmanifest (sha256:[0-9a-f]{64}) (\d{1,19})\n` +
		`(?:position (\d{1,20}-\d{1,20})\n)?stored ([0-9T:.+-]{32})\nat (inline|object)\n)` +
		`header (sha256:[0-9a-f]{64})\n\n`)
	anyHeader = regexp.MustCompile(`^(artifact-record \d+\n(?:[^\n]+\n){1,99}?)` +
		`header (sha256:[0-9a-f]{64})\n\n`)
)

// Envelope is what a record's header says.
type Envelope struct {
	Ref              string `json:"ref"`
	Checksum         string `json:"checksum"`
	Size             int    `json:"size_bytes"`
	ManifestChecksum string `json:"manifest_checksum"`
	ManifestSize     int    `json:"manifest_size_bytes"`
	Position         string `json:"position"`
	Stored           string `json:"stored"`
	At               string `json:"at"`
}

func checksum(blob []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(blob)) }

// Place is the path of a ref's current record below a file store's root; "" for an illegal ref.
func Place(ref string) string {
	names := []string{"refs"}
	for _, segment := range strings.Split(ref, "/") {
		if segment == "" || segment == "." || segment == ".." || len(segment) > 255 {
			return ""
		}
		names = append(names, name(segment))
	}
	if len(ref) > 1024 || strings.IndexFunc(ref, isControl) >= 0 || strings.ToValidUTF8(ref, "") != ref {
		return ""
	}
	return strings.Join(names, "/") + "@"
}

func isControl(c rune) bool { return c < 0x20 || (c >= 0x7f && c < 0xa0) }

func name(segment string) string {
	var b strings.Builder
	for i := 0; i < len(segment); i++ {
		c := segment[i]
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.' && i > 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02x", c)
		}
	}
	if b.Len() > 120 {
		return fmt.Sprintf("%%%%%x", sha256.Sum256([]byte(segment)))
	}
	return b.String()
}

// Parse reads a record: its envelope, the manifest and, if it lies there, the data. All is verified.
func Parse(raw []byte) (e Envelope, manifest, data []byte, err error) {
	m := header.FindSubmatch(raw)
	if m == nil {
		any := anyHeader.FindSubmatch(raw)
		if any != nil && checksum(any[1]) == string(any[2]) {
			return e, nil, nil, errNewer
		}
		return e, nil, nil, errCorrupt
	}
	if checksum(m[1]) != string(m[10]) {
		return e, nil, nil, errCorrupt
	}
	size, _ := strconv.Atoi(string(m[4]))
	manifestSize, _ := strconv.Atoi(string(m[6]))
	e = Envelope{string(m[2]), string(m[3]), size, string(m[5]), manifestSize,
		string(m[7]), string(m[8]), string(m[9])}
	body := raw[len(m[0]):]
	if len(body) < manifestSize {
		return e, nil, nil, errCorrupt
	}
	manifest, data = body[:manifestSize], body[manifestSize:]
	if checksum(manifest) != e.ManifestChecksum {
		return e, nil, nil, errCorrupt
	}
	if e.At == "object" {
		data, err = nil, map[bool]error{false: errCorrupt}[len(data) == 0]
	} else if checksum(data) != e.Checksum {
		err = errCorrupt
	}
	return e, manifest, data, err
}

// Resolve reads from a file store exactly the artifact that a notification pins.
func Resolve(root string, n Notification) (data, manifest []byte, err error) {
	place := Place(n.ArtifactRef)
	if place == "" {
		return nil, nil, fmt.Errorf("no legal ref: %q", n.ArtifactRef)
	}
	own := strings.TrimPrefix(n.Checksum, "sha256:") + "." + strings.TrimPrefix(n.ManifestChecksum, "sha256:")
	for _, path := range []string{place + own, place} { // the version's own record, then the current
		raw, err := os.ReadFile(filepath.Join(root, path))
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, nil, err
		}
		e, manifest, data, err := Parse(raw)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", path, err)
		}
		if e.Ref != n.ArtifactRef || e.Checksum != n.Checksum || e.ManifestChecksum != n.ManifestChecksum {
			continue
		}
		if e.At == "object" {
			digest := strings.TrimPrefix(e.Checksum, "sha256:")
			data, err = os.ReadFile(filepath.Join(root, "objects/sha256", digest[:2], digest))
			if err == nil && checksum(data) != e.Checksum {
				err = fmt.Errorf("objects/sha256/%s: %w", digest, errCorrupt)
			}
		}
		return data, manifest, err
	}
	return nil, nil, fmt.Errorf("%s: %w", n.ArtifactRef, errAbsent)
}
