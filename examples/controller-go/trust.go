package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrUntrusted is what an entry is refused with that no trusted key signed for its place.
var ErrUntrusted = errors.New("not trusted")

// Keys are the public keys that are trusted, by their ids.
type Keys map[string]ed25519.PublicKey

// Add trusts a key.
func (k Keys) Add(key ed25519.PublicKey) {
	digest := sha256.Sum256(key)
	k[hex.EncodeToString(digest[:8])] = key
}

// Verify tells whether one of the keys signed this entry of the stream: docs/wire.md, "Verify a
// signature". A controller that reads many remembers which trees were verified.
func (k Keys) Verify(stream, id string, fields map[string]string) error {
	parts := strings.Split(fields["signature"], " ")
	if len(parts) != 4 || parts[0] != "1" {
		return fmt.Errorf("%w: %s has no signature", ErrUntrusted, id)
	}
	key, number, siblings, err := k[parts[1]], uint64(0), []byte(nil), error(nil)
	if number, err = strconv.ParseUint(parts[2], 10, 16); err == nil {
		siblings, err = base64.StdEncoding.Strict().DecodeString(parts[3])
	}
	if err != nil || key == nil || len(siblings) < 64 || len(siblings) > 64+16*32 || len(siblings)%32 != 0 {
		return fmt.Errorf("%w: %s is signed by no key that is known", ErrUntrusted, id)
	}
	signature, siblings := siblings[:64], siblings[64:]
	root := hash("\x00", len(fields["origin"]), fields["origin"], fields["event"])
	for ; len(siblings) > 0; siblings, number = siblings[32:], number>>1 {
		pair := append(append([]byte{1}, root[:]...), siblings[:32]...)
		if number&1 == 1 {
			pair = append(append([]byte{1}, siblings[:32]...), root[:]...)
		}
		root = sha256.Sum256(pair)
	}
	body := fmt.Sprintf("%d %s %s", len(stream), stream, root[:])
	kind := "application/vnd.artifact-sidecar.notifications"
	message := fmt.Sprintf("DSSEv1 %d %s %d %s", len(kind), kind, len(body), body)
	version, err := ControlVersion(id)
	inPlace := strings.HasSuffix(fields["event"], fmt.Sprintf(`"control_version":%d}`, version))
	if err != nil || number != 0 || !inPlace || !ed25519.Verify(key, []byte(message), signature) {
		return fmt.Errorf("%w: %s was signed as another one", ErrUntrusted, id)
	}
	return nil
}

func hash(prefix string, size int, origin, event string) [32]byte {
	return sha256.Sum256([]byte(fmt.Sprintf("%s%d %s %s", prefix, size, origin, event)))
}
